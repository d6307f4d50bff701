//! Whether sweeps of the scheduler may run now: `custodian.disposal`, daily windows, and rows per day. What a person asks
//! for by `custodian.sweep()` or `sweep_now()` asks for none of them, and counts among the rows of the day.

use chrono::DateTime;

use crate::error::Result;
use crate::guc::{self, Disposal, pace};
use crate::pg::{sandbox, spi, time, xact, zone};
use crate::policy::period::Instant;
use crate::worker::windows::{self, Windows};

const DISPOSAL: &str = "custodian.disposal";
const WINDOWS: &str = "custodian.windows";
const ROWS: &str = "custodian.max_rows_per_day";

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// What the settings allow at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Sweeps may run, for this many more rows of the day where there is a limit.
    Open { rows: Option<i64> },
    /// Not before `until`, where that is known.
    Closed {
        setting: &'static str,
        until: Option<Instant>,
    },
}

impl Allowance {
    /// For what sweeps wait, in words; `None` when they need not.
    pub fn reason(&self) -> Option<String> {
        match self {
            Allowance::Open { .. } => None,
            Allowance::Closed { setting, until } => Some(match until {
                Some(until) => format!("{setting}, until {}", minute(*until)),
                None => (*setting).to_owned(),
            }),
        }
    }
}

/// A moment to the minute, in UTC.
fn minute(at: Instant) -> String {
    DateTime::from_timestamp_micros(at.micros())
        .unwrap_or(DateTime::UNIX_EPOCH)
        .format("%Y-%m-%d %H:%M UTC")
        .to_string()
}

/// Whether a run was interrupted for such a reason, and goes on by itself.
pub fn deferred(reason: &str) -> bool {
    [DISPOSAL, WINDOWS, ROWS]
        .iter()
        .any(|setting| reason.starts_with(setting))
}

/// Decides from the settings: a limit of 0 is none, `used` are the rows of this UTC day. Pure.
fn decide(
    windows: &Windows,
    now: Instant,
    local: impl Fn(&str, i64) -> Option<u16>,
    limit: i64,
    used: i64,
) -> Allowance {
    let seconds = now.micros().div_euclid(SECOND);
    if !windows.open(seconds, &local) {
        return Allowance::Closed {
            setting: WINDOWS,
            until: windows
                .opens(seconds, &local)
                .map(|at| Instant::from_micros(at * SECOND)),
        };
    }
    if limit > 0 && used >= limit {
        let tomorrow = (now.micros().div_euclid(DAY) + 1) * DAY;
        return Allowance::Closed {
            setting: ROWS,
            until: Some(Instant::from_micros(tomorrow)),
        };
    }
    Allowance::Open {
        rows: (limit > 0).then_some(limit - used),
    }
}

/// The rows that runs have disposed of in this database on this UTC day.
fn used() -> Result<i64> {
    sandbox::as_extension_owner(|| {
        Ok(spi::select_one(
            "SELECT coalesce(sum(rows_of_day), 0)::bigint FROM custodian.run
             WHERE day = (clock_timestamp() AT TIME ZONE 'UTC')::date",
            &[],
            |row| row.must::<i64>(1),
        )?
        .unwrap_or(0))
    })
}

/// What the settings allow now, by the server's clock.
pub fn now() -> Result<Allowance> {
    // It may have been set back since the sweep began.
    if guc::disposal() != Disposal::On {
        return Ok(Allowance::Closed {
            setting: DISPOSAL,
            until: None,
        });
    }
    let limit = i64::from(pace::max_rows_per_day());
    let used = if limit > 0 { used()? } else { 0 };
    let text = pace::windows();
    // The setting was checked when it was set. Should it not be readable after all, nothing is open.
    let windows = windows::parse(&text, |_| true);
    Ok(match windows {
        Ok(windows) => decide(
            &windows,
            time::instant_from_raw(xact::server_now()),
            zone::minute_of_day,
            limit,
            used,
        ),
        Err(_) => Allowance::Closed {
            setting: WINDOWS,
            until: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-29 12:00 UTC.
    const NOON: Instant = Instant::from_micros(1_774_785_600 * SECOND);

    fn utc(_: &str, at: i64) -> Option<u16> {
        u16::try_from(at.rem_euclid(86_400) / 60).ok()
    }

    fn at_noon(windows: &str, limit: i64, used: i64) -> Allowance {
        let windows = windows::parse(windows, |_| true).expect("the windows are well formed");
        decide(&windows, NOON, utc, limit, used)
    }

    #[test]
    fn without_settings_nothing_is_limited() {
        assert_eq!(at_noon("", 0, 1_000), Allowance::Open { rows: None });
        assert_eq!(at_noon("", 0, 1_000).reason(), None);
    }

    #[test]
    fn a_sweep_that_a_setting_ended_goes_on_by_itself() {
        for setting in [DISPOSAL, WINDOWS, ROWS] {
            let closed = Allowance::Closed {
                setting,
                until: Some(NOON),
            };
            let reason = closed.reason().expect("it is closed");
            assert!(deferred(&reason), "{reason}");
        }
        assert!(!deferred("the table or the policy is locked"));
    }

    #[test]
    fn outside_of_a_window_it_says_when_the_next_one_opens() {
        assert_eq!(
            at_noon("01:00-05:00 UTC", 100, 100).reason().as_deref(),
            Some("custodian.windows, until 2026-03-30 01:00 UTC")
        );
        assert_eq!(at_noon("11:00-13:00 UTC", 0, 0).reason(), None);
    }

    #[test]
    fn the_rows_of_a_day_are_allowed_again_on_the_next() {
        assert_eq!(at_noon("", 100, 40), Allowance::Open { rows: Some(60) });
        for used in [100, 101] {
            assert_eq!(
                at_noon("", 100, used).reason().as_deref(),
                Some("custodian.max_rows_per_day, until 2026-03-30 00:00 UTC")
            );
        }
    }
}
