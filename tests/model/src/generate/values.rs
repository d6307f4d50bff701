//! Periods, moments and values.

use super::{GONE, Tape};
use crate::calendar::{DAY, HOUR, Moment, Period, day_number};
use crate::world::{Kind, Value};

pub(super) fn period(tape: &mut Tape) -> Period {
    let months = tape.one(&[1, 12, 0, 6, 36, 0]);
    let days = tape.one(&[0, 0, 1, 30, 31]);
    let hours: i64 = tape.one(&[0, 0, 0, 5]);
    let days = if months == 0 && days == 0 && hours == 0 {
        28
    } else {
        days
    };
    Period {
        months,
        days,
        micros: hours * HOUR,
    }
}

/// A moment of the years before the present, often at the end of a month.
pub(super) fn moment(tape: &mut Tape) -> Moment {
    let year = 2023 - tape.pick(5) as i64;
    let (month, day) = tape.one(&[
        (1, 31),
        (6, 15),
        (2, 28),
        (12, 31),
        (3, 1),
        (8, 30),
        (10, 27),
    ]);
    let hour: i64 = tape.one(&[0, 0, 12, 23]);
    day_number(year, month, day) * DAY + hour * HOUR
}

pub(super) fn clock_value(tape: &mut Tape, kind: Kind) -> Value {
    match tape.pick(13) {
        10 => Value::Null,
        11 => Value::Infinite,
        _ => {
            let moment = moment(tape);
            Value::Time(if kind == Kind::Date {
                moment.div_euclid(DAY) * DAY
            } else {
                moment
            })
        }
    }
}

pub(super) fn text_value(tape: &mut Tape, not_null: bool) -> Value {
    match tape.pick(6) {
        4 if !not_null => Value::Null,
        5 => Value::Text(GONE.to_owned()),
        other => Value::Text(format!("v{}", other % 3)),
    }
}
