//! The table of a benchmark of devices: a row for each workload, Carve beside its peer.

use super::account::Sample;
use super::stats::median;

/// Samples of both contenders, gathered over rounds.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug, Default)]
struct Row {
    name: String,
    rates: [Vec<f64>; 2],
    cpus: [Vec<f64>; 2],
}

impl Table {
    /// Adds one run of Carve (0) or its peer (1).
    pub fn add(&mut self, contender: usize, samples: Vec<Sample>) {
        for sample in samples {
            let at = self.rows.iter().position(|row| row.name == sample.name);
            let at = at.unwrap_or_else(|| {
                self.rows.push(Row { name: sample.name.clone(), ..Row::default() });
                self.rows.len() - 1
            });
            self.rows[at].rates[contender].push(sample.rate);
            self.rows[at].cpus[contender].push(sample.cpu.as_secs_f64() * 1e6);
        }
    }

    /// The table, medians: operations a second and their ratio, and CPU time of the monitor for each.
    pub fn print(&self, peer: &str) {
        println!(
            "{:18} {:>11} {:>11} {:>6}   {:>9} {:>9} {:>6}",
            "", "carve", peer, "", "carve", peer, ""
        );
        println!(
            "{:18} {:>11} {:>11} {:>6}   {:>9} {:>9} {:>6}",
            "workload", "ops/s", "ops/s", "ratio", "cpu µs/op", "cpu µs/op", "ratio"
        );
        for Row { name, rates, cpus } in &self.rows {
            let [ours, theirs] = rates.clone().map(median);
            let [cpu, their_cpu] = cpus.clone().map(median);
            println!(
                "{name:18} {ours:11.0} {theirs:11.0} {:6.2}   {cpu:9.2} {their_cpu:9.2} {:6.2}",
                ours / theirs,
                cpu / their_cpu
            );
        }
    }
}
