//! A 16550 UART: the console port of a guest. The registers are vm-superio's; this file connects
//! them to an interrupt line and a byte sink, decides when the guest can take input, and makes the
//! interrupt identification register behave as a 16550's.
//!
//! Where the bytes come from and go to (terminal, file, pipe), and whether a sink blocks, is not
//! decided here.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::Arc;

use vm_superio::Trigger;
use vm_superio::serial::{Error, SerialEvents};

use super::ByteRegisters;
use crate::bus::Action;
use crate::interrupt::InterruptLine;
use crate::rate_limit::RateLimitedLog;

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Number of ports.
pub const LEN: u16 = 8;

const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_IDENTIFICATION: u8 = 2;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

const IER_RECEIVED_DATA: u8 = 1 << 0;
const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;

const IIR_FIFOS: u8 = 0b1100_0000;
const IIR_CAUSE: u8 = 0b1111;
const IIR_NONE: u8 = 0b0001;
const IIR_TRANSMITTER_EMPTY: u8 = 0b0010;
const IIR_RECEIVED_DATA: u8 = 0b0100;

const MCR_RTS: u8 = 1 << 1;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOPBACK: u8 = 1 << 4;

const LSR_DATA_READY: u8 = 1 << 0;

/// A driver that reads the line status this often without touching another register polls for
/// input. Drivers that wait for the transmitter do not get there: it is always ready.
const POLLS: u8 = 64;

/// The interrupt line, which is edge triggered: while an edge is on its way nothing is gained by another.
struct Line {
    line: Arc<dyn InterruptLine>,
    /// An edge was sent and the guest has not looked at the UART's interrupts since. Its handler will,
    /// and then sees every cause there is.
    outstanding: Cell<bool>,
}

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        if self.outstanding.replace(true) { Ok(()) } else { self.line.trigger() }
    }
}

struct Events {
    input_drained: Box<dyn Fn() + Send>,
    lost: Cell<u64>,
}

impl SerialEvents for Events {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {
        self.lost.set(self.lost.get().saturating_add(1));
    }

    fn in_buffer_empty(&self) {
        (self.input_drained)();
    }
}

type Uart = vm_superio::Serial<Line, Events, Box<dyn Write + Send>>;

/// A 16550 UART with a 64-byte receive FIFO.
///
/// Input is taken only while the guest listens: it enabled the received-data interrupt and the
/// interrupt output (OUT2), or it polls. Before that a driver that probes the port would throw away
/// whatever had arrived; this way input piped to a guest is kept for the program that reads it.
/// A guest that uses hardware flow control (`stty crtscts`) also stops input by lowering RTS.
pub struct Serial {
    uart: Uart,
    /// The guest can take input.
    listening: bool,
    /// Input was refused since the last call of `input_drained`.
    refused: bool,
    /// Consecutive reads of the line status register.
    polls: u8,
    interrupt_enable: u8,
    /// The guest has raised RTS before, so RTS low means "wait" and not "unused".
    flow_control: bool,
    /// A transmitter-empty interrupt that has not been identified, because received data, the
    /// more urgent cause, was.
    transmitter_empty: bool,
    interrupt_errors: RateLimitedLog,
}

impl Serial {
    /// A UART that writes what the guest sends to `output`, byte by byte with a flush each, and
    /// interrupts through `line`.
    ///
    /// `input_drained` is called, from the thread of a vCPU and with the device locked, when the
    /// guest has read all input or has become ready to take some: the time to call
    /// [`Serial::enqueue`] again.
    ///
    /// The guest never learns of errors of `output`. Bytes it did not take are lost and counted.
    pub fn new(
        line: Arc<dyn InterruptLine>,
        output: Box<dyn Write + Send>,
        input_drained: Box<dyn Fn() + Send>,
    ) -> Self {
        let events = Events { input_drained, lost: Cell::new(0) };
        let mut uart =
            Uart::with_events(Line { line, outstanding: Cell::new(false) }, events, output);
        // The value after reset; vm-superio starts with OUT2 set. Writing MCR has no effects that
        // could fail.
        let _ = uart.write(MODEM_CONTROL, 0);
        Self {
            uart,
            listening: false,
            refused: false,
            polls: 0,
            interrupt_enable: 0,
            flow_control: false,
            transmitter_empty: false,
            interrupt_errors: RateLimitedLog::new(),
        }
    }

    /// Gives the guest the first bytes of `input`; returns how many it took. When those are not
    /// all, `input_drained` tells when to come back with the rest.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let count = input.len().min(self.input_capacity());
        if let Err(error) = self.uart.enqueue_raw_bytes(&input[..count]) {
            self.note(error);
        }
        self.refused |= count < input.len();
        count
    }

    /// The number of bytes [`Serial::enqueue`] takes now. After 0, `input_drained` tells when there
    /// is room again.
    pub fn input_capacity(&mut self) -> usize {
        let capacity = if self.listening { self.uart.fifo_capacity() } else { 0 };
        self.refused |= capacity == 0;
        capacity
    }

    /// Bytes from the guest that the output did not take.
    pub fn lost_bytes(&self) -> u64 {
        self.uart.events().lost.get()
    }

    /// Sees whether the guest listens, after a write to a register that decides it.
    fn update_listening(&mut self) {
        let state = self.uart.state();
        self.interrupt_enable = state.interrupt_enable;
        let wired = state.modem_control & (MCR_OUT2 | MCR_LOOPBACK) == MCR_OUT2;
        let ready = state.modem_control & MCR_RTS != 0;
        self.flow_control |= ready && state.modem_control & MCR_LOOPBACK == 0;
        let enabled = state.interrupt_enable & IER_RECEIVED_DATA != 0;
        self.set_listening(wired && enabled && (ready || !self.flow_control));
    }

    fn set_listening(&mut self, listening: bool) {
        let starts = listening && !self.listening;
        self.listening = listening;
        if starts && std::mem::take(&mut self.refused) {
            self.uart.events().in_buffer_empty();
        }
    }

    /// Reads the interrupt identification register by priority: received data, for as long as
    /// there is some, then transmitter empty. vm-superio reports both causes at once, which means
    /// something else, and forgets them when read, so that data a driver left in the FIFO would
    /// wait for the next byte to arrive.
    fn identify_interrupt(&mut self) -> u8 {
        self.uart.interrupt_evt().outstanding.set(false);
        let pending = self.uart.read(INTERRUPT_IDENTIFICATION) & IIR_CAUSE;
        let enabled = self.interrupt_enable;
        self.transmitter_empty |= pending & IIR_TRANSMITTER_EMPTY != 0;
        self.transmitter_empty &= enabled & IER_TRANSMITTER_EMPTY != 0;
        let has_data = self.uart.read(LINE_STATUS) & LSR_DATA_READY != 0;
        let cause = if has_data && enabled & IER_RECEIVED_DATA != 0 {
            IIR_RECEIVED_DATA
        } else if std::mem::take(&mut self.transmitter_empty) {
            IIR_TRANSMITTER_EMPTY
        } else {
            IIR_NONE
        };
        IIR_FIFOS | cause
    }

    fn note(&mut self, error: Error<io::Error>) {
        match error {
            // Once is enough: an output that fails keeps failing, and the count goes on.
            Error::IOError(error) if self.lost_bytes() == 1 => {
                tracing::warn!(%error, "cannot write the guest's serial output, it is being lost");
            }
            Error::IOError(_) | Error::FullFifo => {}
            Error::Trigger(error) => {
                if let Some(suppressed) = self.interrupt_errors.admit() {
                    tracing::warn!(%error, suppressed, "cannot send a serial port interrupt");
                }
            }
        }
    }
}

impl ByteRegisters for Serial {
    fn read_byte(&mut self, offset: u64) -> u8 {
        let Ok(offset) = u8::try_from(offset) else { return 0xff };
        if offset == LINE_STATUS {
            self.polls = self.polls.saturating_add(1);
            if self.polls >= POLLS {
                self.set_listening(true);
            }
        } else {
            self.polls = 0;
        }
        match offset {
            INTERRUPT_IDENTIFICATION => self.identify_interrupt(),
            _ => self.uart.read(offset),
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) -> Option<Action> {
        let offset = u8::try_from(offset).ok()?;
        self.polls = 0;
        if matches!(offset, INTERRUPT_ENABLE | MODEM_CONTROL) {
            // An edge sent before may have met a masked or disconnected line.
            self.uart.interrupt_evt().outstanding.set(false);
        }
        if let Err(error) = self.uart.write(offset, value) {
            self.note(error);
        }
        if matches!(offset, INTERRUPT_ENABLE | MODEM_CONTROL) {
            self.update_listening();
        }
        None
    }
}

#[cfg(test)]
#[path = "serial_test.rs"]
mod serial_test;
