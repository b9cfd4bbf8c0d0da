//! What can be asked of a running machine, by whomever: signals, keys, vCPUs and the
//! control interface.
//!
//! Only the main loop acts on requests, one at a time, in the order they came.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::command::Asked;

/// One thing asked of the machine.
#[derive(Debug)]
pub enum Request {
    /// A signal that ends the run.
    Signal(i32),
    /// The user's escape sequence: end the run.
    Quit,
    /// Press the guest's power button.
    PowerButton,
    /// Show the user a text on the console.
    Say(&'static str),
    /// The terminal's window may have another size.
    WindowResized,
    /// The process goes on after a stop.
    Continued,
    /// Some time has passed: look at what tells nothing by itself.
    Tick,
    /// A vCPU's loop has ended; see the machine for why.
    VcpuEnded,
    /// Something from the control interface, to be answered.
    Asked(Asked),
    /// The console's output is written, or cannot be.
    Output,
}

/// The queue of requests. Clones are handles on the same queue.
#[derive(Debug, Clone, Default)]
pub struct Requests(Rc<RefCell<VecDeque<Request>>>);

impl Requests {
    /// Adds a request at the end.
    pub fn push(&self, request: Request) {
        self.0.borrow_mut().push_back(request);
    }

    /// Takes the request that came first.
    pub fn pop(&self) -> Option<Request> {
        self.0.borrow_mut().pop_front()
    }
}
