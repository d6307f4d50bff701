//! Since when something has been true, found by asking at moments. Pure.

use crate::error::Result;
use crate::policy::period::Instant;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// Nobody asks further back: 400 years.
const FURTHEST: i64 = 400 * 8766 * HOUR;

/// The earliest moment found at which `holds` is true, where it is true at `now` and has been since it became so. It
/// became so at that moment, or earlier by a thirtieth of the time since then at most, or by a minute. `holds` is asked
/// about 25 times at most, for a year about 20 times.
pub fn since(now: Instant, mut holds: impl FnMut(Instant) -> Result<bool>) -> Result<Instant> {
    let before = |span: i64| Instant::from_micros(now.micros().saturating_sub(span));
    // In spans back from now: true at `near`, not true at `far`.
    let mut near = 0;
    let mut far = HOUR;
    while holds(before(far))? {
        near = far;
        if far >= FURTHEST {
            return Ok(before(near));
        }
        far *= 2;
    }
    while far - near > (near / 30).max(MINUTE) {
        let middle = near + (far - near) / 2;
        if holds(before(middle))? {
            near = middle;
        } else {
            far = middle;
        }
    }
    Ok(before(near))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000_000_000;

    #[test]
    fn what_always_held_is_told_as_far_back_as_is_asked() {
        let since = since(Instant::from_micros(NOW), |_| Ok(true)).expect("no query fails");
        assert!(since.micros() <= NOW - FURTHEST);
    }

    #[test]
    fn an_error_passes() {
        let broken = || Err(crate::error::Error::internal("broken"));
        assert!(since(Instant::from_micros(NOW), |_| broken()).is_err());
    }

    proptest! {
        #[test]
        fn the_moment_is_found_as_exactly_as_it_says(age in 0i64..100 * 8766 * HOUR) {
            let began = NOW - age;
            let mut asked = 0;
            let found = since(Instant::from_micros(NOW), |at| {
                asked += 1;
                Ok(at.micros() >= began)
            })
            .expect("no query fails")
            .micros();
            // Never earlier than it was, and hardly later.
            prop_assert!(found >= began);
            prop_assert!(found - began <= ((NOW - found) / 30).max(MINUTE));
            prop_assert!(asked <= 27, "asked {} times", asked);
        }
    }
}
