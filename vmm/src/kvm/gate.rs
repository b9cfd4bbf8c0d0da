//! Where vCPUs learn that their machine is to pause or to stop, and wait while it is paused.
//!
//! The gate decides nothing: whoever closes it also kicks the vCPUs, which come here only when they
//! have left KVM_RUN.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use devices::mutex::lock;

/// What a vCPU is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wish {
    /// Enter the guest.
    Run = 0,
    /// Make its state complete, then [`wait`](Gate::wait).
    Pause = 1,
    /// Leave its loop.
    Stop = 2,
}

/// One gate for all vCPUs of a machine.
#[derive(Debug, Default)]
pub struct Gate {
    /// A [`Wish`]: the one thing looked at before each entry into the guest. Written under the lock.
    wish: AtomicU8,
    /// vCPUs that neither wait here nor have ended.
    running: Mutex<u32>,
    /// `running` has become 0.
    emptied: Condvar,
    /// The wish is another one.
    changed: Condvar,
}

/// One vCPU, counted from its start to its end.
#[derive(Debug)]
pub struct Entered(Arc<Gate>);

impl Gate {
    /// Counts one more vCPU, until what is returned is dropped.
    pub fn enter(gate: Arc<Self>) -> Entered {
        *lock(&gate.running) += 1;
        Entered(gate)
    }

    /// What a vCPU is to do next.
    pub fn wish(&self) -> Wish {
        match self.wish.load(Ordering::Acquire) {
            0 => Wish::Run,
            1 => Wish::Pause,
            _ => Wish::Stop,
        }
    }

    /// Changes what vCPUs are to do; those that wait here look again. Kick the others.
    pub fn set(&self, wish: Wish) {
        let _running = lock(&self.running);
        self.wish.store(wish as u8, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits as one of the vCPUs while the wish is to pause.
    pub fn wait(&self) {
        let mut running = lock(&self.running);
        self.leave(&mut running);
        while self.wish() == Wish::Pause {
            running = self.changed.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
    }

    /// Waits at most `patience` until every vCPU waits or has ended; whether they do.
    pub fn wait_until_empty(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut running = lock(&self.running);
        while *running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.emptied.wait_timeout(running, left);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn leave(&self, running: &mut u32) {
        *running -= 1;
        if *running == 0 {
            self.emptied.notify_all();
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.leave(&mut lock(&self.0.running));
    }
}

#[cfg(test)]
mod gate_test {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    /// A "vCPU" that looks at the gate and does nothing else.
    fn vcpu(gate: &Arc<Gate>, rounds: &Arc<AtomicU8>) -> thread::JoinHandle<()> {
        let (entered, rounds) = (Gate::enter(Arc::clone(gate)), Arc::clone(rounds));
        thread::spawn(move || {
            loop {
                match entered.0.wish() {
                    Wish::Run => thread::yield_now(),
                    Wish::Pause => {
                        entered.0.wait();
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                    Wish::Stop => return,
                }
            }
        })
    }

    #[test]
    fn a_closed_gate_is_empty_soon_and_an_open_one_is_not() {
        let (gate, rounds) = (Arc::new(Gate::default()), Arc::default());
        let threads: Vec<_> = (0..4).map(|_| vcpu(&gate, &rounds)).collect();
        for _ in 0..20 {
            // Those that waited leave when they get to it.
            while gate.wait_until_empty(SHORT) {}
            gate.set(Wish::Pause);
            assert!(gate.wait_until_empty(LONG));
            gate.set(Wish::Run);
        }
        gate.set(Wish::Stop);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(gate.wait_until_empty(SHORT));
        assert!(rounds.load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn who_waits_at_the_gate_leaves_when_it_is_to_stop() {
        let (gate, rounds) = (Arc::new(Gate::default()), Arc::default());
        gate.set(Wish::Pause);
        let thread = vcpu(&gate, &rounds);
        assert!(gate.wait_until_empty(LONG));
        gate.set(Wish::Stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_vcpu_that_panics_is_not_waited_for() {
        let gate = Arc::new(Gate::default());
        let entered = Gate::enter(Arc::clone(&gate));
        let thread = thread::spawn(move || {
            let _entered = entered;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert!(gate.wait_until_empty(SHORT));
    }
}
