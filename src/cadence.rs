//! When the next tick is due: at start, start + 1 × naptime, start + 2 × naptime, …

use std::time::{Duration, Instant};

/// A fixed cadence on the monotonic clock, which nobody can set: late ticks don't
/// shift later ones, and ticks that were missed are skipped, not made up for.
pub struct Cadence {
    naptime: Duration,
    /// The last tick that is over, where the cadence has it; `None` before the first.
    last: Option<Instant>,
    next: Instant,
}

impl Cadence {
    /// The first tick is due at `start`.
    pub fn new(start: Instant, naptime: Duration) -> Self {
        let (last, next) = (None, start);
        Cadence {
            naptime,
            last,
            next,
        }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// How long to wait for the next tick; zero if it is due.
    pub fn time_left(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Ends the tick that was due: the next is the first one after `now` that is
    /// not before `earliest`. Returns how many ticks `earliest` left out.
    pub fn advance(&mut self, now: Instant, earliest: Instant) -> u64 {
        let missed = whole_naptimes(now - self.next, self.naptime);
        let next = self.next + times(self.naptime, missed + 1);
        let held_back = earliest.saturating_duration_since(next);
        let left_out = held_back.as_nanos().div_ceil(self.naptime.as_nanos()) as u64;
        self.next = next + times(self.naptime, left_out);
        self.last = Some(self.next - self.naptime);
        left_out
    }

    /// Takes on a new naptime: the next tick is that much later than the last one.
    /// The naptime it has already changes nothing.
    pub fn set_naptime(&mut self, naptime: Duration) {
        if naptime == self.naptime {
            return;
        }
        self.naptime = naptime;
        if let Some(last) = self.last {
            self.next = last + naptime;
        }
    }
}

fn whole_naptimes(time: Duration, naptime: Duration) -> u64 {
    (time.as_nanos() / naptime.as_nanos()) as u64
}

fn times(naptime: Duration, count: u64) -> Duration {
    Duration::from_nanos_u128(naptime.as_nanos() * u128::from(count))
}
