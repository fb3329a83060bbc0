//! Where the lot comes from: numbers that a seed determines.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed of this run: another one each time, unless `PORTCULLIS_SEED` repeats one. It is printed.
pub(crate) fn seed() -> u64 {
    told(said().unwrap_or_else(drawn))
}

/// The same, and `usual` but in the long form.
pub(crate) fn seed_or(usual: u64) -> u64 {
    let is_long = std::env::var_os("PORTCULLIS_LONG").is_some();
    told(said().unwrap_or_else(|| if is_long { drawn() } else { usual }))
}

fn said() -> Option<u64> {
    let text = std::env::var("PORTCULLIS_SEED").ok()?;
    Some(text.parse().expect("PORTCULLIS_SEED is a number"))
}

fn drawn() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

fn told(seed: u64) -> u64 {
    eprintln!("PORTCULLIS_SEED={seed}");
    seed
}

/// Vigna, xorshift64*.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One to three of what is drawn, mostly one.
    pub(crate) fn few<T>(&mut self, mut draw: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.one(&[1, 1, 1, 2, 3]);
        (0..count).map(|_| draw(self)).collect()
    }
}
