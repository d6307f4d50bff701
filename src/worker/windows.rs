//! Daily windows in which the scheduler's sweeps run: `custodian.windows`. Pure: the caller knows time zones.

const DAY: u16 = 24 * 60;

/// Seconds in a minute.
const MINUTE: i64 = 60;

/// How far ahead an opening is looked for: every window opens within a day, or two where a clock is changed.
const AHEAD: i64 = 3 * 24 * 60;

/// One window, in minutes of the local day. It goes across midnight when it ends before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    from: u16,
    to: u16,
    zone: String,
}

impl Window {
    fn contains(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// What the setting says. None at all is no restriction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows(Vec<Window>);

/// `HH:MM` as minutes; `24:00` is the end of the day.
fn time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= DAY).then_some(time)
}

fn window(text: &str, known: &impl Fn(&str) -> bool) -> Result<Window, String> {
    let mut words = text.split_whitespace();
    let (Some(span), Some(zone), None) = (words.next(), words.next(), words.next()) else {
        return Err(format!(
            "\"{}\" is not a window: it is written as HH:MM-HH:MM and a time zone, as in \"01:00-05:00 Asia/Shanghai\".",
            text.trim()
        ));
    };
    let times = span
        .split_once('-')
        .and_then(|(from, to)| time(from).zip(time(to)));
    let Some((from, to)) = times.filter(|(from, _)| *from < DAY) else {
        return Err(format!(
            "\"{span}\" is not a span of times: it is written as HH:MM-HH:MM, from 00:00 to 24:00."
        ));
    };
    if from == to {
        return Err(format!(
            "The window \"{span}\" is empty; a whole day is 00:00-24:00."
        ));
    }
    if !known(zone) {
        return Err(format!(
            "The server has no time zone \"{zone}\"; pg_timezone_names shows those it has."
        ));
    }
    Ok(Window {
        from,
        to,
        zone: zone.to_owned(),
    })
}

/// Reads the setting: windows, separated by commas. `known` says whether there is a time zone of that name. The error
/// says what is wrong, as a sentence.
pub fn parse(text: &str, known: impl Fn(&str) -> bool) -> Result<Windows, String> {
    if text.trim().is_empty() {
        return Ok(Windows::default());
    }
    text.split(',')
        .map(|text| window(text, &known))
        .collect::<Result<_, _>>()
        .map(Windows)
}

impl Windows {
    /// Whether one of them is open at `now`, in seconds since 1970. `local` gives the minute of the day in a time zone
    /// at a moment; a zone that has gone missing keeps its windows closed.
    pub fn open(&self, now: i64, local: impl Fn(&str, i64) -> Option<u16>) -> bool {
        let open = |window: &Window| {
            local(&window.zone, now).is_some_and(|minute| window.contains(minute))
        };
        self.0.is_empty() || self.0.iter().any(open)
    }

    /// The first whole minute after `now` at which one is open.
    pub fn opens(&self, now: i64, local: impl Fn(&str, i64) -> Option<u16>) -> Option<i64> {
        let next = now.div_euclid(MINUTE) + 1;
        (next..next + AHEAD)
            .map(|minute| minute * MINUTE)
            .find(|at| self.open(*at, &local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    /// 2026-03-29 00:00 UTC: the day on which clocks go forward in Berlin.
    const SPRING: i64 = 1_774_742_400;
    /// 2026-10-25 00:00 UTC: the day on which they go back.
    const AUTUMN: i64 = 1_792_886_400;

    fn known(zone: &str) -> bool {
        ["UTC", "Asia/Shanghai", "Europe/Berlin"].contains(&zone)
    }

    /// The offset of a zone in hours: Berlin's summer of 2026 is from 01:00 UTC of one of these days to the other.
    fn local(zone: &str, at: i64) -> Option<u16> {
        let offset = match zone {
            "UTC" => 0,
            "Asia/Shanghai" => 8,
            "Europe/Berlin" if (SPRING + HOUR..AUTUMN + HOUR).contains(&at) => 2,
            "Europe/Berlin" => 1,
            _ => return None,
        };
        u16::try_from((at + offset * HOUR).rem_euclid(24 * HOUR) / MINUTE).ok()
    }

    fn windows(text: &str) -> Windows {
        parse(text, known).expect("the windows are well formed")
    }

    #[test]
    fn without_windows_it_is_always_open() {
        for text in ["", "  "] {
            assert!(windows(text).open(SPRING, local));
        }
    }

    #[test]
    fn a_window_is_open_from_its_first_minute_and_closed_at_its_last() {
        let night = windows("01:00-05:00 Asia/Shanghai");
        // 01:00 in Shanghai is 17:00 UTC of the day before.
        let opening = SPRING + 17 * HOUR;
        assert!(!night.open(opening - 1, local));
        assert!(night.open(opening, local));
        assert!(night.open(opening + 4 * HOUR - 1, local));
        assert!(!night.open(opening + 4 * HOUR, local));
        assert_eq!(night.opens(opening - 90, local), Some(opening));
        assert_eq!(
            night.opens(opening + 4 * HOUR, local),
            Some(opening + 24 * HOUR)
        );
    }

    #[test]
    fn a_window_goes_across_midnight_and_a_day_is_a_window() {
        let night = windows("22:30-02:00 UTC");
        assert!(night.open(SPRING, local));
        assert!(night.open(SPRING + 22 * HOUR + 30 * MINUTE, local));
        assert!(!night.open(SPRING + 2 * HOUR, local));
        let day = windows("00:00-24:00 UTC");
        for hour in 0..24 {
            assert!(day.open(SPRING + hour * HOUR, local));
        }
    }

    #[test]
    fn several_windows_are_open_in_turn() {
        let both = windows("01:00-02:00 UTC, 03:00-04:00 Europe/Berlin");
        assert!(both.open(SPRING + HOUR, local));
        // 03:00 in Berlin is 01:00 UTC on this day already.
        assert!(!both.open(SPRING + 2 * HOUR, local));
        assert_eq!(both.opens(SPRING, local), Some(SPRING + HOUR));
    }

    #[test]
    fn a_window_in_an_hour_that_is_left_out_stays_closed_that_day() {
        let gone = windows("02:00-03:00 Europe/Berlin");
        assert_eq!(
            gone.opens(SPRING, local),
            Some(SPRING + 24 * HOUR),
            "02:00 does not come on this day"
        );
        let longer = windows("02:00-04:00 Europe/Berlin");
        assert_eq!(longer.opens(SPRING, local), Some(SPRING + HOUR));
    }

    #[test]
    fn a_window_in_an_hour_that_comes_twice_opens_twice() {
        let twice = windows("02:00-03:00 Europe/Berlin");
        let open: Vec<i64> = (0..5)
            .filter(|hour| twice.open(AUTUMN + hour * HOUR, local))
            .collect();
        assert_eq!(open, [0, 1]);
    }

    #[test]
    fn a_zone_that_has_gone_missing_keeps_its_window_closed() {
        let lost = parse("00:00-24:00 Mars/Olympus", |_| true).expect("the zone is accepted");
        assert!(!lost.open(SPRING, local));
        assert_eq!(lost.opens(SPRING, local), None);
    }

    #[test]
    fn what_is_no_window_is_refused_with_a_reason() {
        let why = |text| parse(text, known).expect_err("it is no window");
        for text in [
            "01:00-05:00",
            "01:00 - 05:00 UTC",
            "UTC",
            "01:00-05:00 UTC,",
            ",",
        ] {
            assert!(why(text).contains("is not a window"), "{text}");
        }
        for text in [
            "1:00-05:00 UTC",
            "01:60-05:00 UTC",
            "24:00-05:00 UTC",
            "01:00-25:00 UTC",
            "01:00-24:01 UTC",
            "0100-0500 UTC",
            "+1:00-05:00 UTC",
        ] {
            assert!(why(text).contains("is not a span of times"), "{text}");
        }
        assert!(why("05:00-05:00 UTC").contains("empty"));
        assert!(why("01:00-05:00 Asia/Shanghigh").contains("no time zone"));
    }
}
