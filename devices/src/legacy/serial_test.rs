//! The UART as an 8250 driver uses it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::legacy::legacy_test::CountingLine;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;

const DATA_READY: u8 = LSR_DATA_READY;
const FIFO_SIZE: usize = 64;

/// A sink that the test can read, and that fails when told to.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<(Vec<u8>, bool)>>);

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut output = self.0.lock().unwrap();
        if output.1 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        output.0.extend(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Port {
    serial: Serial,
    line: Arc<CountingLine>,
    output: Output,
    drained: Arc<AtomicUsize>,
}

impl Port {
    fn new() -> Self {
        let (line, output) = (Arc::new(CountingLine::default()), Output::default());
        let drained = Arc::new(AtomicUsize::new(0));
        let count = drained.clone();
        let callback = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let serial = Serial::new(line.clone(), Box::new(output.clone()), Box::new(callback));
        Self { serial, line, output, drained }
    }

    /// A port opened for reading as Linux leaves it.
    fn open() -> Self {
        let mut port = Self::new();
        port.write(MCR, MCR_OUT2 | 3);
        port.write(IER, IER_RECEIVED_DATA | 4);
        port
    }

    fn read(&mut self, register: u64) -> u8 {
        self.serial.read_byte(register)
    }

    fn write(&mut self, register: u64, value: u8) {
        assert_eq!(self.serial.write_byte(register, value), None);
    }

    fn drained(&self) -> usize {
        self.drained.load(Ordering::Relaxed)
    }
}

#[test]
fn output_reaches_the_sink_and_raises_a_transmitter_empty_interrupt_when_enabled() {
    let mut port = Port::open();
    port.write(DATA, b'a');
    assert_eq!(port.line.edges(), 0);
    port.write(IER, IER_TRANSMITTER_EMPTY);
    assert_eq!(port.line.edges(), 1);
    assert_eq!(port.read(IIR), 0xc0 | IIR_TRANSMITTER_EMPTY);
    assert_eq!(port.read(IIR), 0xc0 | IIR_NONE);
    port.write(DATA, b'b');
    assert_eq!(port.line.edges(), 2);
    assert_eq!(port.output.0.lock().unwrap().0, b"ab");
}

#[test]
fn a_failing_sink_is_counted_and_hidden_from_the_guest() {
    let mut port = Port::open();
    port.output.0.lock().unwrap().1 = true;
    for _ in 0..1000 {
        port.write(DATA, b'x');
        assert_eq!(port.read(LSR) & 0x60, 0x60);
    }
    assert_eq!(port.serial.lost_bytes(), 1000);
    port.output.0.lock().unwrap().1 = false;
    port.write(DATA, b'y');
    assert_eq!(port.output.0.lock().unwrap().0, b"y");
}

#[test]
fn input_interrupts_and_is_read_to_the_end() {
    let mut port = Port::open();
    assert_eq!(port.serial.enqueue(b"hi"), 2);
    assert_eq!(port.line.edges(), 1);
    assert_eq!(port.read(IIR), 0xc0 | IIR_RECEIVED_DATA);
    assert_eq!(port.read(LSR) & DATA_READY, DATA_READY);
    assert_eq!(port.read(DATA), b'h');
    assert_eq!(port.drained(), 0);
    assert_eq!(port.read(DATA), b'i');
    assert_eq!(port.drained(), 1);
    assert_eq!(port.read(LSR) & DATA_READY, 0);
    assert_eq!(port.read(IIR), 0xc0 | IIR_NONE);
}

#[test]
fn a_megabyte_of_input_arrives_whole_and_in_order() {
    let mut port = Port::open();
    let input: Vec<u8> =
        (0u32..1 << 20).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut rest = &input[..];
    let mut received = Vec::new();
    while received.len() < input.len() {
        let taken = port.serial.enqueue(rest);
        rest = &rest[taken..];
        assert!(taken == FIFO_SIZE || rest.is_empty());
        assert_eq!(port.read(IIR) & IIR_CAUSE, IIR_RECEIVED_DATA);
        let drained = port.drained();
        while port.read(LSR) & DATA_READY != 0 {
            received.push(port.read(DATA));
        }
        assert_eq!(port.drained(), drained + 1);
        assert_eq!(port.read(IIR) & IIR_CAUSE, IIR_NONE);
    }
    assert!(received == input);
}

#[test]
fn input_waits_for_a_driver_that_probes_and_then_opens_the_port() {
    let mut port = Port::new();
    assert_eq!(port.serial.enqueue(b"ls\n"), 0);
    // Linux tries all interrupt enable bits, then the loopback of the modem lines, then reads
    // whatever may be pending.
    port.write(IER, 0x0f);
    port.write(IER, 0);
    port.write(MCR, MCR_LOOPBACK | 0x0a);
    assert_eq!(port.read(MSR) & 0xf0, 0x90);
    port.write(MCR, 0);
    for register in [LSR, DATA, IIR, MSR] {
        port.read(register);
    }
    let drained = port.drained();
    assert_eq!(port.serial.enqueue(b"ls\n"), 0);
    port.write(MCR, MCR_OUT2 | 3);
    assert_eq!(port.drained(), drained);
    port.write(IER, IER_RECEIVED_DATA | 4);
    assert_eq!(port.drained(), drained + 1);
    assert_eq!(port.serial.enqueue(b"ls\n"), 3);
    assert_eq!([port.read(DATA), port.read(DATA), port.read(DATA)], *b"ls\n");
}

#[test]
fn a_guest_that_polls_gets_input_without_any_interrupt() {
    let mut port = Port::new();
    assert_eq!(port.serial.input_capacity(), 0);
    for _ in 0..POLLS {
        assert_eq!(port.read(LSR) & DATA_READY, 0);
    }
    assert_eq!(port.drained(), 1);
    assert_eq!(port.serial.enqueue(b"x"), 1);
    assert_eq!(port.read(LSR) & DATA_READY, DATA_READY);
    assert_eq!(port.read(DATA), b'x');
    assert_eq!(port.line.edges(), 0);
}

#[test]
fn waiting_for_the_transmitter_is_not_polling_for_input() {
    let mut port = Port::new();
    for _ in 0..10 * u32::from(POLLS) {
        port.read(LSR);
        port.write(DATA, b'.');
    }
    assert_eq!(port.serial.input_capacity(), 0);
}

#[test]
fn the_console_masking_interrupts_for_a_message_delays_input_only() {
    let mut port = Port::open();
    assert_eq!(port.serial.enqueue(b"a"), 1);
    port.write(IER, 0);
    assert_eq!(port.serial.enqueue(b"b"), 0);
    assert_eq!(port.read(IIR), 0xc0 | IIR_NONE);
    port.write(IER, IER_RECEIVED_DATA);
    assert_eq!(port.drained(), 1);
    assert_eq!(port.line.edges(), 2);
    assert_eq!(port.read(IIR), 0xc0 | IIR_RECEIVED_DATA);
    assert_eq!(port.read(DATA), b'a');
}

#[test]
fn both_causes_pending_are_identified_in_turn() {
    let mut port = Port::open();
    port.write(IER, IER_RECEIVED_DATA | IER_TRANSMITTER_EMPTY);
    port.serial.enqueue(b"ab");
    assert_eq!(port.read(IIR), 0xc0 | IIR_RECEIVED_DATA);
    assert_eq!(port.read(DATA), b'a');
    assert_eq!(port.read(IIR), 0xc0 | IIR_RECEIVED_DATA);
    assert_eq!(port.read(DATA), b'b');
    assert_eq!(port.read(IIR), 0xc0 | IIR_TRANSMITTER_EMPTY);
    assert_eq!(port.read(IIR), 0xc0 | IIR_NONE);
}

#[test]
fn the_divisor_latch_does_not_disturb_the_interrupt_enables() {
    let mut port = Port::open();
    port.write(LCR, 0x80);
    port.write(DATA, 1);
    port.write(IER, 0);
    port.write(LCR, 3);
    assert_eq!(port.read(IER), IER_RECEIVED_DATA | 4);
    assert_eq!(port.serial.enqueue(b"a"), 1);
    assert!(port.output.0.lock().unwrap().0.is_empty());
}

#[test]
fn lowering_request_to_send_stops_input_until_it_is_raised_again() {
    let mut port = Port::open();
    port.write(MCR, MCR_OUT2 | 1);
    assert_eq!(port.serial.enqueue(b"later"), 0);
    let before = port.drained();
    port.write(MCR, MCR_OUT2 | 3);
    assert_eq!(port.drained(), before + 1);
    assert_eq!(port.serial.enqueue(b"later"), 5);
}
