//! Random policies and rows for tests: the same in each run.

use std::collections::BTreeMap;

use crate::policy::model::{Hold, HoldScope, Maximum, Minimum, Policy, Purpose, RelId, Span};
use crate::policy::period::{Instant, Period};

/// A small generator: the same rows and policies in each run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len() as u64) as usize]
    }

    /// A timestamp near the end of a month more often than not, as SQL text without a zone.
    fn timestamp(&mut self) -> String {
        let year = 2018 + self.below(8);
        let month = 1 + self.below(12);
        let last = match month {
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let day = if self.chance(60) {
            last - self.below(3)
        } else {
            1 + self.below(28)
        };
        let time = self.pick(&["00:00:00", "23:59:59.999999", "12:34:56.789"]);
        format!("{year}-{month:02}-{day:02} {time}")
    }

    /// A literal for a column of a clock: sometimes NULL, sometimes infinite.
    pub fn clock(&mut self) -> String {
        match self.below(20) {
            0 | 1 => "NULL".to_owned(),
            2 => "'infinity'".to_owned(),
            3 => "'-infinity'".to_owned(),
            _ => format!("'{}'", self.timestamp()),
        }
    }

    pub fn instant(&mut self) -> Instant {
        let text = self.timestamp().replace(' ', "T") + "Z";
        let time: chrono::DateTime<chrono::Utc> = text.parse().expect("a valid timestamp");
        Instant::from_micros(time.timestamp_micros())
    }

    pub fn period(&mut self) -> Period {
        *self.pick(&[
            &Period::months(1),
            &Period::days(30),
            &Period::months(12),
            &Period::months(13),
            &Period::months(36),
            &Period {
                months: 1,
                days: 1,
                micros: 10_800_000_000,
            },
            &Period {
                months: 0,
                days: 0,
                micros: 1,
            },
        ])
    }

    /// Up to three spans in order of time, apart from each other; the last one may be open.
    pub fn spans(&mut self) -> Vec<Span> {
        let mut moments: Vec<Instant> = (0..self.below(7)).map(|_| self.instant()).collect();
        moments.sort();
        moments.dedup();
        moments
            .chunks(2)
            .filter_map(|pair| {
                Some(Span {
                    from: *pair.first()?,
                    until: pair.get(1).copied(),
                })
            })
            .collect()
    }
}

/// A policy with three purposes, one of them optional and one on consent, two laws that keep and one that limits, and holds.
pub fn policy(random: &mut Random, table: RelId) -> Policy {
    let mut policy = Policy::default();
    for name in ["p.a", "p.b", "p.c"] {
        let mut since: Vec<Instant> = (0..=random.below(3)).map(|_| random.instant()).collect();
        since.sort();
        since.dedup();
        policy.purposes.insert(
            name.to_owned(),
            Purpose {
                name: name.to_owned(),
                basis: "contract".to_owned(),
                consent: name == "p.c",
                required: name == "p.a",
                periods: since
                    .into_iter()
                    .map(|since| (since, random.period()))
                    .collect(),
                ended_at: random.chance(15).then(|| random.instant()),
            },
        );
    }
    for name in ["m.x", "m.y"] {
        policy.minimums.insert(
            name.to_owned(),
            Minimum {
                name: name.to_owned(),
                period: random.period(),
                citation: format!("Law on {name}"),
                defence: false,
                suspensions: Vec::new(),
            },
        );
    }
    if let Some(minimum) = policy.minimums.get_mut("m.y") {
        minimum.defence = random.chance(60);
        if minimum.defence {
            minimum.suspensions = random.spans();
        }
    }
    policy.maximums.insert(
        "x.z".to_owned(),
        Maximum {
            name: "x.z".to_owned(),
            period: random.period(),
            citation: "Law on x.z".to_owned(),
        },
    );
    let mut holds = Vec::new();
    for id in 0..random.below(12) {
        let scope = match random.below(12) {
            0 => HoldScope::Table { table },
            1..=4 => HoldScope::Rows {
                table,
                matching: BTreeMap::from([(
                    "inv".to_owned(),
                    vec![
                        format!("I{}", random.below(30)),
                        format!("I{}", random.below(30)),
                    ],
                )]),
            },
            5..=8 => HoldScope::Subject {
                kind: "customer".to_owned(),
                key: vec![random.below(20).to_string()],
            },
            _ => HoldScope::Subject {
                kind: "pair".to_owned(),
                key: vec![
                    random.below(20).to_string(),
                    format!("I{}", random.below(30)),
                ],
            },
        };
        // Half of the trials have no hold on the whole table.
        if matches!(scope, HoldScope::Table { .. }) && random.chance(70) {
            continue;
        }
        holds.push(Hold {
            id: id as i64,
            matter: format!("M{id}"),
            scope,
        });
    }
    policy.holds = holds.into();
    policy
}
