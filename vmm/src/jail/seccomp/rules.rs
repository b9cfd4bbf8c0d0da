//! What an allow-list is made of: system calls, some with conditions on their arguments, put together and
//! compiled to a filter.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What an argument must be, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Its lower 32 bits are this. What the kernel declares as int or unsigned int.
    Is(u8, u32),
    /// It has none of these bits.
    Lacks(u8, u64),
    /// It has all of these bits.
    Has(u8, u64),
}

/// System calls that a thread may make, each with the sets of checks of which one must hold; without any
/// set, always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(BTreeMap<c_long, Vec<Vec<Check>>>);

impl Allowed {
    /// Also these, whatever their arguments.
    #[must_use]
    pub fn calls(mut self, numbers: &[c_long]) -> Self {
        for &number in numbers {
            self.0.insert(number, Vec::new());
        }
        self
    }

    /// Also this one, if all of `checks` hold.
    #[must_use]
    pub fn when(mut self, number: c_long, checks: &[Check]) -> Self {
        match self.0.get_mut(&number) {
            // It may be made in any case.
            Some(sets) if sets.is_empty() => {}
            Some(sets) if sets.iter().any(|set| set == checks) => {}
            Some(sets) => sets.push(checks.to_vec()),
            None => _ = self.0.insert(number, vec![checks.to_vec()]),
        }
        self
    }

    /// Also this one, with one of `values` as the argument at `index`.
    #[must_use]
    pub fn one_of(self, number: c_long, index: u8, values: &[u32]) -> Self {
        values.iter().fold(self, |all, &value| all.when(number, &[Check::Is(index, value)]))
    }

    /// Also these requests of ioctl(2).
    #[must_use]
    pub fn ioctls(self, requests: &[u32]) -> Self {
        self.one_of(libc::SYS_ioctl, 1, requests)
    }

    /// Also what `other` allows.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        other.0.iter().fold(self, |all, (&number, sets)| match sets.is_empty() {
            true => all.calls(&[number]),
            false => sets.iter().fold(all, |all, set| all.when(number, set)),
        })
    }

    /// How many system calls, and how many sets of checks with those that need none.
    pub fn size(&self) -> (usize, usize) {
        (self.0.len(), self.0.values().map(|sets| sets.len().max(1)).sum())
    }

    /// Whether the call is allowed with some arguments.
    #[cfg(test)]
    pub fn has(&self, number: c_long) -> bool {
        self.0.contains_key(&number)
    }

    /// The filter that does `otherwise` about everything else.
    ///
    /// # Errors
    ///
    /// It is longer than the kernel takes.
    pub fn compile(&self, otherwise: SeccompAction) -> Result<BpfProgram, seccompiler::Error> {
        self.build(otherwise, SeccompAction::Allow)
    }

    /// The filter that answers these calls with the error `number`, and does nothing about others.
    ///
    /// # Errors
    ///
    /// It is longer than the kernel takes.
    pub fn compile_refusing(&self, number: i32) -> Result<BpfProgram, seccompiler::Error> {
        self.build(SeccompAction::Allow, SeccompAction::Errno(number.unsigned_abs()))
    }

    fn build(
        &self,
        otherwise: SeccompAction,
        then: SeccompAction,
    ) -> Result<BpfProgram, seccompiler::Error> {
        let mut rules = BTreeMap::new();
        for (&number, sets) in &self.0 {
            let sets: Result<_, _> = sets.iter().map(|set| rule(set)).collect();
            rules.insert(number, sets?);
        }
        let filter = SeccompFilter::new(rules, otherwise, then, TargetArch::x86_64)?;
        Ok(filter.try_into()?)
    }
}

fn rule(checks: &[Check]) -> Result<SeccompRule, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let condition = |check: &Check| match *check {
        Check::Is(index, value) => {
            SeccompCondition::new(index, Dword, SeccompCmpOp::Eq, value.into())
        }
        Check::Lacks(index, bits) => {
            SeccompCondition::new(index, Qword, SeccompCmpOp::MaskedEq(bits), 0)
        }
        Check::Has(index, bits) => {
            SeccompCondition::new(index, Qword, SeccompCmpOp::MaskedEq(bits), bits)
        }
    };
    SeccompRule::new(checks.iter().map(condition).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod rules_test {
    use super::*;

    #[test]
    fn a_call_that_may_always_be_made_stays_so() {
        let some = Allowed::default().when(7, &[Check::Is(0, 1)]);
        let always = Allowed::default().calls(&[7]);
        assert_eq!(some.clone().and(&always), always);
        assert_eq!(always.clone().and(&some), always);
    }

    #[test]
    fn conditions_of_several_lists_add_up_without_repetition() {
        let one = Allowed::default().ioctls(&[1, 2]);
        let both = one.clone().and(&Allowed::default().ioctls(&[2, 3]));
        assert_eq!((one.size(), both.size()), ((1, 2), (1, 3)));
    }
}
