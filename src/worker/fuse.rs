//! The fuse: how much may be disposed without asking a person. Pure.

/// What is known before the first row of a run is touched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Rows the run would dispose, a row counted once for each step that changes it.
    pub planned: i64,
    /// Rows disposed in the last 24 hours by runs that nobody approved.
    pub disposed: i64,
    /// Rows in the table now.
    pub rows: i64,
    /// They were estimated, for a part of the table at least, and not counted.
    pub estimated: bool,
    /// The setting `custodian.max_disposal_fraction`.
    pub fraction: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The run may start.
    Go,
    /// The run must wait for an approval, for this reason.
    Wait { reason: String },
}

impl Estimate {
    /// Rows that may still go today. What was disposed belongs to the table that the fraction is of.
    fn allowance(self) -> i64 {
        let base = self.rows.max(0).saturating_add(self.disposed.max(0));
        let allowed = (self.fraction.clamp(0.0, 1.0) * base as f64).floor() as i64;
        allowed.saturating_sub(self.disposed).max(0)
    }

    /// Whether a run may start by itself.
    pub fn verdict(self) -> Verdict {
        // At 1 the fuse is switched off: a row that several steps change counts more than once.
        if self.fraction >= 1.0 {
            return Verdict::Go;
        }
        if self.planned <= self.allowance() {
            return Verdict::Go;
        }
        let before = if self.disposed > 0 {
            format!(", {} were disposed in the last 24 hours", self.disposed)
        } else {
            String::new()
        };
        let about = if self.estimated { "about " } else { "" };
        Verdict::Wait {
            reason: format!(
                "{} of {about}{} rows are due{before}, and custodian.max_disposal_fraction is {}",
                self.planned, self.rows, self.fraction
            ),
        }
    }

    /// How many rows a run may dispose altogether, at most: what was planned, or what may go today. A run that
    /// a person approved may dispose the day's allowance beyond it, for rows that came in meanwhile.
    pub fn limit(self, approved: bool) -> i64 {
        if self.fraction >= 1.0 {
            i64::MAX
        } else if approved {
            self.planned.saturating_add(self.allowance())
        } else {
            self.planned.max(self.allowance())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(planned: i64, disposed: i64, rows: i64, fraction: f64) -> Estimate {
        Estimate {
            planned,
            disposed,
            rows,
            estimated: false,
            fraction,
        }
    }

    fn waits(estimate: Estimate) -> bool {
        matches!(estimate.verdict(), Verdict::Wait { .. })
    }

    #[test]
    fn a_run_up_to_the_fraction_goes() {
        assert_eq!(estimate(50, 0, 1000, 0.05).verdict(), Verdict::Go);
        assert!(waits(estimate(51, 0, 1000, 0.05)));
    }

    #[test]
    fn what_went_today_counts() {
        // 50 of 1,000 went already; 950 are left.
        assert!(waits(estimate(1, 50, 950, 0.05)));
        assert_eq!(estimate(10, 40, 960, 0.05).verdict(), Verdict::Go);
    }

    #[test]
    fn zero_always_waits_and_one_never() {
        assert!(waits(estimate(1, 0, 1_000_000, 0.0)));
        assert_eq!(estimate(3000, 0, 1000, 1.0).verdict(), Verdict::Go);
    }

    #[test]
    fn an_unknown_size_never_lets_a_run_through() {
        assert!(waits(estimate(1, 0, 0, 0.5)));
        assert!(waits(estimate(1, 0, -1, 0.5)));
    }

    #[test]
    fn the_reason_says_what_was_compared() {
        let Verdict::Wait { reason } = estimate(600, 20, 1000, 0.05).verdict() else {
            panic!("600 of 1,000 rows must wait");
        };
        assert_eq!(
            reason,
            "600 of 1000 rows are due, 20 were disposed in the last 24 hours, \
             and custodian.max_disposal_fraction is 0.05"
        );
        let guessed = Estimate {
            estimated: true,
            ..estimate(600, 0, 1000, 0.05)
        };
        assert_eq!(
            guessed.verdict(),
            Verdict::Wait {
                reason:
                    "600 of about 1000 rows are due, and custodian.max_disposal_fraction is 0.05"
                        .to_owned()
            }
        );
    }

    #[test]
    fn a_run_stops_at_what_was_planned_or_what_may_go_today() {
        assert_eq!(estimate(10, 0, 1000, 0.05).limit(false), 50);
        assert_eq!(estimate(60, 0, 1000, 0.05).limit(false), 60);
    }

    #[test]
    fn an_approved_run_may_dispose_what_was_approved_and_little_more() {
        assert_eq!(estimate(600, 0, 1000, 0.05).limit(true), 650);
        assert_eq!(estimate(600, 50, 400, 0.05).limit(true), 600);
        assert_eq!(estimate(600, 0, 1000, 1.0).limit(true), i64::MAX);
    }
}
