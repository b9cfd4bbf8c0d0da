//! Numbers that look random, the same for the same seed, with a liking for those at which things break.

/// A generator (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A value for a register or a field: small, a power of two or next to one, an address, or anything.
    pub fn value(&mut self) -> u64 {
        let value = self.any_value();
        // Not an address of this program's own: that would only end the game.
        if (0x20_0000..super::ARENA as u64).contains(&value) {
            value + super::ARENA as u64
        } else {
            value
        }
    }

    fn any_value(&mut self) -> u64 {
        match self.below(8) {
            0 | 1 => self.below(16),
            2 => 1 << self.below(64),
            3 => (1_u64 << self.below(64)).wrapping_sub(1),
            4 => (1_u64 << self.below(64)).wrapping_add(self.below(3)),
            5 => self.address(),
            6 => u64::MAX - self.below(4096),
            _ => self.next() >> self.below(64),
        }
    }

    /// An address that a device might be made to use.
    pub fn address(&mut self) -> u64 {
        let start = match self.below(12) {
            0..6 => super::ARENA as u64 + (self.below(super::ARENA_LEN as u64) & !0xf),
            6 => super::RAM_END as u64,
            7 => 0xc000_0000 + (self.below(1 << 24) & !0xfff),
            8 => self.pick(&[0xe000_0000, 0xfec0_0000, 0xfee0_0000, 0xffff_f000, 1 << 32, 1 << 40]),
            9 => self.below(1 << 20),
            10 => 0_u64.wrapping_sub(self.below(1 << 16)),
            _ => self.next(),
        };
        match self.below(4) {
            0 => start.wrapping_sub(self.below(64)),
            1 => start.wrapping_add(self.below(64)),
            _ => start,
        }
    }
}
