//! Whether the server's circumstances changed since the last round in a way that a person must look at before
//! anything is disposed of: a clock that jumped, a restore, a recovery to a point in time. Pure.

/// What is noted of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The server's clock, in microseconds.
    pub at: i64,
    /// Which boot of the machine, where the system tells.
    pub boot: Option<String>,
    /// Microseconds since that boot, on a clock that nobody sets.
    pub uptime: i64,
    /// The number of the cluster.
    pub system: i64,
    pub timeline: i64,
    /// Which copy of its files, where the system tells.
    pub directory: Option<String>,
}

/// How one timeline ended and the next began, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that ended.
    pub parent: i64,
    pub reason: String,
}

/// What a person must look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// A short stable code.
    pub cause: &'static str,
    pub reason: String,
}

const SECOND: i64 = 1_000_000;

/// A clock that is set right is corrected by less than this.
pub const TOLERANCE: i64 = 300 * SECOND;

/// After this long without a round, on another boot or timeline, nobody can tell a pause from a jump or a restore.
const LONG: i64 = 86_400 * SECOND;

/// A promoted standby takes over within this time.
const TAKEOVER: i64 = 3_600 * SECOND;

/// The server's words for a timeline that ended where its WAL ended, as on a promotion.
const TO_THE_END: &str = "no recovery target specified";

/// Parses a timeline history file of the server.
pub fn forks(history: &str) -> Vec<Fork> {
    history
        .lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, '\t');
            let parent = fields.next()?.trim().parse().ok()?;
            fields.next()?;
            Some(Fork {
                parent,
                reason: fields.next().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

fn minutes(micros: i64) -> String {
    let minutes = micros.unsigned_abs() / 60_000_000;
    if minutes < 120 {
        format!("{minutes} minutes")
    } else {
        format!("{} hours", minutes / 60)
    }
}

fn clock(before: &Beat, now: &Beat) -> Option<Halt> {
    let jumped = |by: i64| Halt {
        cause: "clock-jumped",
        reason: format!(
            "the server's clock was moved {} by {}",
            if by < 0 { "back" } else { "forward" },
            minutes(by)
        ),
    };
    let passed = now.at.saturating_sub(before.at);
    if before.boot.is_some() && before.boot == now.boot {
        let by = passed.saturating_sub(now.uptime.saturating_sub(before.uptime));
        return (by.abs() > TOLERANCE).then(|| jumped(by));
    }
    if passed < -TOLERANCE {
        return Some(jumped(passed));
    }
    (passed > LONG).then(|| Halt {
        cause: "long-pause",
        reason: format!(
            "the last round was {} ago, on another machine or before it was restarted: nothing tells whether the clock is right",
            minutes(passed)
        ),
    })
}

fn lineage(before: &Beat, now: &Beat, history: Option<&[Fork]>) -> Option<Halt> {
    if before.timeline == now.timeline {
        let known = before.directory.as_ref().zip(now.directory.as_ref());
        return known
            .filter(|(before, now)| before != now)
            .map(|_| Halt {
                cause: "restored",
                reason: "the cluster runs on another copy of its files than at the last round, on the same timeline"
                    .to_owned(),
            });
    }
    let halt = |reason: String| {
        Some(Halt {
            cause: "restored",
            reason,
        })
    };
    let Some(history) = history else {
        return halt(format!(
            "the history of timeline {} cannot be read",
            now.timeline
        ));
    };
    let Some(first) = history
        .iter()
        .position(|fork| fork.parent == before.timeline)
    else {
        return halt(format!(
            "timeline {} does not come from timeline {}, on which the last round was",
            now.timeline, before.timeline
        ));
    };
    if let Some(fork) = history
        .iter()
        .skip(first)
        .find(|fork| fork.reason != TO_THE_END)
    {
        return halt(format!(
            "the cluster was recovered to a point in time: timeline {} ended {}",
            fork.parent, fork.reason
        ));
    }
    let passed = now.at.saturating_sub(before.at);
    if passed > TAKEOVER {
        return halt(format!(
            "the cluster changed its timeline, and the last round in this copy of it was {} ago, too long for a promotion",
            minutes(passed)
        ));
    }
    None
}

/// What a person must look at before the round that `now` begins disposes of anything; `history` are the forks of
/// the present timeline, where they could be read. A promotion that goes on where the primary ended is nothing.
pub fn judge(before: &Beat, now: &Beat, history: Option<&[Fork]>) -> Option<Halt> {
    if before.system != now.system {
        return Some(Halt {
            cause: "restored",
            reason: "the cluster has another system identifier than at the last round".to_owned(),
        });
    }
    lineage(before, now, history).or_else(|| clock(before, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(minute: i64) -> Beat {
        Beat {
            at: 1_000_000 * SECOND + minute * 60 * SECOND,
            boot: Some("a".to_owned()),
            uptime: minute * 60 * SECOND,
            system: 7,
            timeline: 1,
            directory: Some("4:5".to_owned()),
        }
    }

    fn cause(before: &Beat, now: &Beat, history: Option<&[Fork]>) -> Option<&'static str> {
        judge(before, now, history).map(|halt| halt.cause)
    }

    #[test]
    fn time_that_passes_is_no_jump_however_long() {
        assert_eq!(judge(&beat(0), &beat(1), None), None);
        assert_eq!(judge(&beat(0), &beat(60 * 24 * 30), None), None);
        // Another boot, and the server was off over night.
        let mut later = beat(60 * 10);
        later.boot = Some("b".to_owned());
        later.uptime = 5;
        assert_eq!(judge(&beat(0), &later, None), None);
    }

    #[test]
    fn a_clock_that_moves_by_more_than_the_time_that_passed_has_jumped() {
        for by in [-6, 6, 60 * 24 * 365] {
            let mut now = beat(1);
            now.at += by * 60 * SECOND;
            assert_eq!(cause(&beat(0), &now, None), Some("clock-jumped"), "{by}");
        }
        let mut slewed = beat(1);
        slewed.at += 4 * 60 * SECOND;
        assert_eq!(judge(&beat(0), &slewed, None), None);
    }

    #[test]
    fn without_a_clock_that_nobody_sets_going_back_or_a_long_time_halts() {
        let other = |minute: i64| Beat {
            boot: None,
            uptime: 0,
            ..beat(minute)
        };
        assert_eq!(cause(&other(60), &other(0), None), Some("clock-jumped"));
        assert_eq!(cause(&other(0), &other(60 * 30), None), Some("long-pause"));
        assert_eq!(judge(&other(0), &other(60), None), None);
    }

    #[test]
    fn another_cluster_halts() {
        let now = Beat {
            system: 8,
            ..beat(1)
        };
        assert_eq!(cause(&beat(0), &now, None), Some("restored"));
    }

    #[test]
    fn another_copy_of_the_files_halts_unless_it_was_promoted() {
        let copy = |timeline: i64| Beat {
            directory: Some("4:6".to_owned()),
            timeline,
            ..beat(1)
        };
        assert_eq!(cause(&beat(0), &copy(1), None), Some("restored"));
        let end = forks("1\t0/3000000\tno recovery target specified\n");
        assert_eq!(cause(&beat(0), &copy(2), Some(&end)), None);
        let unknown = Beat {
            directory: None,
            ..beat(1)
        };
        assert_eq!(cause(&beat(0), &unknown, None), None);
        assert_eq!(cause(&unknown, &copy(1), None), None);
    }

    #[test]
    fn a_promotion_goes_on_and_a_recovery_to_a_point_in_time_halts() {
        let promoted = Beat {
            timeline: 3,
            boot: Some("b".to_owned()),
            ..beat(5)
        };
        let end = "1\t0/3000000\tno recovery target specified\n\n2\t0/4000000\tno recovery target specified\n";
        assert_eq!(judge(&beat(0), &promoted, Some(&forks(end))), None);
        let point = "1\t0/3000000\tno recovery target specified\n2\t0/4000000\tbefore 2026-01-01 00:00:00+00\n";
        let halt = judge(&beat(0), &promoted, Some(&forks(point))).expect("a recovery");
        assert_eq!(halt.cause, "restored");
        assert_eq!(
            halt.reason,
            "the cluster was recovered to a point in time: timeline 2 ended before 2026-01-01 00:00:00+00"
        );
        // A fork before the last round was looked at then.
        let now = Beat {
            timeline: 3,
            ..beat(1)
        };
        let before = Beat {
            timeline: 2,
            ..beat(0)
        };
        let older = "1\t0/3000000\tbefore 2026-01-01\n2\t0/4000000\tno recovery target specified\n";
        assert_eq!(judge(&before, &now, Some(&forks(older))), None);
    }

    #[test]
    fn a_lineage_that_cannot_be_followed_halts() {
        let now = Beat {
            timeline: 3,
            ..beat(1)
        };
        assert_eq!(cause(&beat(0), &now, None), Some("restored"));
        let other = forks("2\t0/1\tno recovery target specified\n");
        assert_eq!(cause(&beat(0), &now, Some(&other)), Some("restored"));
    }

    #[test]
    fn a_backup_that_was_restored_long_after_its_last_round_halts() {
        let now = Beat {
            timeline: 2,
            boot: Some("b".to_owned()),
            ..beat(61)
        };
        let end = forks("1\t0/3000000\tno recovery target specified\n");
        assert_eq!(cause(&beat(0), &now, Some(&end)), Some("restored"));
    }
}
