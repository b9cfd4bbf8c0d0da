//! Copies from and to chains of several buffers.
#![allow(clippy::cast_possible_truncation)] // Sizes chosen by the test.

use std::sync::Arc;

use super::*;
use crate::memory;
use crate::virtio::test_driver::{DriverQueue, MEMORY, Part, Signals};

fn chain(parts: &[Part]) -> (Chain, DriverQueue, crate::virtio::Queue) {
    let memory = Arc::new(memory::anonymous(&[(0, MEMORY)]));
    let mut driver = DriverQueue::new(&memory, 0, 16, false);
    let mut queue = driver.device_side(Arc::<Signals>::default()).unwrap();
    driver.post(parts);
    let mut chain = queue.chain();
    assert_eq!(queue.pop(&mut chain), Ok(true));
    (chain, driver, queue)
}

#[test]
fn reads_cross_buffers_and_start_anywhere() {
    let (chain, ..) =
        chain(&[Part::Out(vec![0, 1, 2]), Part::Out(vec![3]), Part::Out(vec![4, 5, 6, 7])]);
    for from in 0..=8 {
        for to in from..=8 {
            let mut bytes = vec![0xff; to - from];
            chain.read(from, &mut bytes).unwrap();
            assert_eq!(bytes, (from as u8..to as u8).collect::<Vec<_>>());
        }
        assert_eq!(chain.read(from, &mut vec![0; 9 - from]), Err(TooShort));
    }
    assert_eq!(chain.read(9, &mut [0]), Err(TooShort));
    assert_eq!(chain.read(usize::MAX, &mut [0]), Err(TooShort));
    assert_eq!(chain.read_obj::<u32>(2).unwrap().to_le_bytes(), [2, 3, 4, 5]);
    assert_eq!(chain.read_obj::<u64>(1), Err(TooShort));
}

#[test]
fn writes_cross_buffers_and_end_with_them() {
    let (chain, mut driver, mut queue) = chain(&[Part::Out(vec![9]), Part::In(3), Part::In(4)]);
    chain.write(0, &[0; 7]).unwrap();
    chain.write(2, &[1, 2, 3]).unwrap();
    chain.write_obj(5, 0x0504_u16).unwrap();
    assert_eq!(chain.write(7, &[1]), Err(TooShort));
    queue.push(chain.head(), 7);
    assert_eq!(driver.poll_used().unwrap().1, [0, 0, 1, 2, 3, 4, 5]);
    assert_eq!(chain.write(4, &[7; 5]), Err(TooShort), "as much as there is room for is written");
}

#[test]
fn the_readable_part_cannot_be_written_nor_the_writable_part_read() {
    let (chain, ..) = chain(&[Part::Out(vec![1, 2])]);
    assert_eq!(chain.write(0, &[1]), Err(TooShort));
    assert_eq!((chain.readable_len(), chain.writable_len()), (2, 0));
    let (chain, ..) = self::chain(&[Part::In(2)]);
    assert_eq!(chain.read(0, &mut [0]), Err(TooShort));
    assert!(chain.read(0, &mut []).is_ok());
}
