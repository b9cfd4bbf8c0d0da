//! Counting from lines as test programs print them.

use super::*;

fn counts(lines: &[&str]) -> Counts {
    let mut counts = Counts::default();
    for line in lines {
        counts.read(line);
    }
    counts
}

#[test]
fn results_of_several_programs_of_the_standard_harness_add_up() {
    let lines = [
        "running 3 tests",
        "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.1s",
        "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
    ];
    assert_eq!(counts(&lines), Counts { passed: 3, failed: 2, skipped: 1 });
}

#[test]
fn nextest_summaries_count_with_and_without_colours() {
    let plain = "     Summary [   0.110s] 5 tests run: 4 passed, 1 failed, 2 skipped";
    assert_eq!(counts(&[plain]), Counts { passed: 4, failed: 1, skipped: 2 });
    let colour = "\x1b[32;1m     Summary\x1b[0m [   0.1s] \x1b[1m2\x1b[0m tests run: \x1b[1m2\x1b[0m \x1b[32mpassed\x1b[0m, 0 skipped";
    assert_eq!(counts(&[colour]), Counts { passed: 2, failed: 0, skipped: 0 });
}

#[test]
fn what_tests_print_is_not_taken_for_a_summary() {
    assert!(counts(&["test 3 passed ... ok", "3 failed", "Summary of 3 passed"]).none());
}

#[test]
fn a_step_without_tests_counts_as_one() {
    let mut report = Report::default();
    report.add("format", Outcome::Passed(Counts::default()), Duration::ZERO);
    report.add(
        "unit",
        Outcome::Passed(Counts { passed: 5, failed: 0, skipped: 1 }),
        Duration::ZERO,
    );
    report.add("deny", Outcome::Skipped("cargo-deny is not installed".into()), Duration::ZERO);
    assert!(report.good());
    assert!(report.to_string().ends_with("\n6 passed, 0 failed, 2 skipped"));
    report.add("boot", Outcome::Failed(Counts::default(), "no host".into()), Duration::ZERO);
    assert!(!report.good());
    assert!(report.to_string().ends_with("\n6 passed, 1 failed, 2 skipped"));
}
