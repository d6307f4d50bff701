//! What a sweep measures for `custodian.metrics`: how long its batches take, what it writes, and for what it waits. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// Upper bounds of the buckets, in seconds, as exporters write them.
pub const BOUNDS: [&str; 9] = [
    "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "1", "5",
];

/// The bucket of everything.
const ALL: &str = "+Inf";

/// For what a sweep waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    ReplayLag,
    Slot,
    Vacuum,
    WalRate,
}

impl Wait {
    const fn as_str(self) -> &'static str {
        match self {
            Wait::ReplayLag => "replay_lag",
            Wait::Slot => "slot",
            Wait::Vacuum => "vacuum",
            Wait::WalRate => "wal_rate",
        }
    }
}

/// One number that is added to a counter of the table that is swept.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    pub name: &'static str,
    pub label: &'static str,
    pub value: f64,
}

/// What was measured since it was last handed over.
#[derive(Debug, Default)]
pub struct Meter {
    /// Batches by the first bound that they stay within; the last one is beyond all.
    batches: [u32; BOUNDS.len() + 1],
    took: Duration,
    wal: u64,
    waits: BTreeMap<Wait, Duration>,
}

impl Meter {
    /// One batch that took so long and wrote so many bytes of WAL.
    pub fn batch(&mut self, took: Duration, wal: u64) {
        let within = |bound: &&str| {
            bound
                .parse()
                .is_ok_and(|bound: f64| took.as_secs_f64() <= bound)
        };
        let bucket = BOUNDS.iter().position(within);
        self.batches[bucket.unwrap_or(BOUNDS.len())] += 1;
        self.took += took;
        self.wal += wal;
    }

    pub fn wait(&mut self, reason: Wait, time: Duration) {
        *self.waits.entry(reason).or_default() += time;
    }

    /// Hands over what was measured, in a fixed order, and begins anew; nothing when nothing was.
    pub fn take(&mut self) -> Vec<Count> {
        let meter = std::mem::take(self);
        let count = |name, label, value| Count { name, label, value };
        let mut counts = Vec::new();
        let all: u32 = meter.batches.iter().sum();
        if all > 0 {
            let bounds = BOUNDS.into_iter().chain([ALL]);
            for (bound, batches) in bounds.zip(meter.batches) {
                counts.push(count("batches", bound, f64::from(batches)));
            }
            counts.push(count("batch_seconds", "", meter.took.as_secs_f64()));
            counts.push(count("wal_bytes", "", meter.wal as f64));
        }
        for (reason, time) in meter.waits {
            counts.push(count("waited_seconds", reason.as_str(), time.as_secs_f64()));
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_in_the_first_bucket_it_stays_within() {
        let mut meter = Meter::default();
        for millis in [5, 6, 75, 76, 6_000] {
            meter.batch(Duration::from_millis(millis), 100);
        }
        let counts = meter.take();
        let of = |label| {
            let found = counts
                .iter()
                .find(|count| count.name == "batches" && count.label == label);
            found.map(|count| count.value)
        };
        assert_eq!(of("0.005"), Some(1.0));
        assert_eq!(of("0.01"), Some(1.0));
        assert_eq!(of("0.025"), Some(0.0));
        assert_eq!(of("0.075"), Some(1.0));
        assert_eq!(of("0.1"), Some(1.0));
        assert_eq!(of("+Inf"), Some(1.0));
        assert!(counts.contains(&Count {
            name: "wal_bytes",
            label: "",
            value: 500.0
        }));
        assert!(meter.take().is_empty(), "it begins anew");
    }

    #[test]
    fn waits_are_summed_by_their_reason() {
        let mut meter = Meter::default();
        meter.wait(Wait::Slot, Duration::from_secs(1));
        meter.wait(Wait::Vacuum, Duration::from_secs(2));
        meter.wait(Wait::Slot, Duration::from_secs(3));
        let waited: Vec<_> = meter
            .take()
            .into_iter()
            .map(|count| (count.name, count.label, count.value))
            .collect();
        assert_eq!(
            waited,
            [
                ("waited_seconds", "slot", 4.0),
                ("waited_seconds", "vacuum", 2.0)
            ]
        );
    }
}
