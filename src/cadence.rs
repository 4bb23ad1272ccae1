//! When the next tick is due: at start, start + 1 × naptime, start + 2 × naptime, …

use std::time::{Duration, Instant};

/// A fixed cadence on the monotonic clock, which cannot be set: late ticks don't shift later
/// ones, and missed ticks are skipped, not made up for.
pub struct Cadence {
    naptime: Duration,
    /// When the last finished tick was due, or would have been; `None` before the first. A new
    /// naptime counts from here.
    last: Option<Instant>,
    next: Instant,
    /// No tick before this, whatever the naptime.
    earliest: Instant,
}

impl Cadence {
    /// The first tick is due at `start`.
    pub fn new(start: Instant, naptime: Duration) -> Self {
        Cadence {
            naptime,
            last: None,
            next: start,
            earliest: start,
        }
    }

    /// Whether it is time for a tick, which [`Cadence::advance`] is to end.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// How long to wait for the next tick; zero if it is due.
    pub fn time_left(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Ends the tick that was due: the next is the first one after `now` that is not before
    /// `earliest`. Returns how many ticks were skipped because of `earliest`.
    pub fn advance(&mut self, now: Instant, earliest: Instant) -> u64 {
        let missed = nanoseconds(now - self.next) / nanoseconds(self.naptime);
        let mut last = self.next + times(self.naptime, missed);
        let mut next = last + self.naptime;
        let mut left_out = 0;
        if next < earliest {
            left_out = nanoseconds(earliest - next).div_ceil(nanoseconds(self.naptime));
            last += times(self.naptime, left_out);
            next = last + self.naptime;
        }
        self.last = Some(last);
        self.next = next;
        self.earliest = earliest;
        left_out
    }

    /// Adopts a new naptime: the next tick is that much later than the last one, but not before
    /// the `earliest` of [`Cadence::advance`]. Setting the same naptime again changes nothing.
    pub fn set_naptime(&mut self, naptime: Duration) {
        if naptime == self.naptime {
            return;
        }
        self.naptime = naptime;
        if let Some(last) = self.last {
            self.next = self.earliest.max(last + naptime);
        }
    }
}

/// Enough for five centuries.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

fn times(naptime: Duration, count: u64) -> Duration {
    Duration::from_nanos(nanoseconds(naptime) * count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_new_naptime_does_not_cut_a_rest_short() {
        let start = Instant::now();
        let mut cadence = Cadence::new(start, 3600 * SECOND);
        // A count of ten seconds, and nine times as much rest.
        let now = start + 10 * SECOND;
        assert_eq!(cadence.advance(now, now + 90 * SECOND), 0);
        cadence.set_naptime(SECOND);
        assert!(!cadence.is_due(start + 99 * SECOND));
        assert!(cadence.is_due(start + 100 * SECOND));
    }

    #[test]
    fn a_rest_leaves_ticks_out_and_the_cadence_is_kept() {
        let start = Instant::now();
        let mut cadence = Cadence::new(start, SECOND);
        // A count of ten and a half seconds, and nine times as much rest.
        let now = start + Duration::from_millis(10_500);
        let earliest = now + Duration::from_millis(94_500);
        assert_eq!(cadence.advance(now, earliest), 94);
        assert_eq!(cadence.time_left(start + 104 * SECOND), SECOND);
        // The last tick is where the cadence would have placed it.
        cadence.set_naptime(2 * SECOND);
        assert_eq!(cadence.time_left(start + 104 * SECOND), 2 * SECOND);
    }

    #[test]
    fn missed_ticks_are_skipped_and_the_cadence_kept() {
        let start = Instant::now();
        let mut cadence = Cadence::new(start, SECOND);
        let late = start + Duration::from_millis(3_500);
        assert_eq!(cadence.advance(late, late), 0);
        assert_eq!(cadence.time_left(late), Duration::from_millis(500));
    }
}
