//! What is on record of a consent, in the form in which it reaches a decision. Pure.

use crate::policy::model::Span;
use crate::policy::period::Instant;

/// What a subject's consent to a purpose is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing had been recorded by then.
    Unrecorded,
    Given,
    Withdrawn,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Unrecorded => "none",
            State::Given => "given",
            State::Withdrawn => "withdrawn",
        }
    }
}

/// The state at `at`: of the consents given by then, one that lasts is enough.
pub fn state(spans: &[Span], at: Instant) -> State {
    let mut state = State::Unrecorded;
    for span in spans.iter().filter(|span| span.from <= at) {
        if span.until.is_none_or(|until| until > at) {
            return State::Given;
        }
        state = State::Withdrawn;
    }
    state
}

/// Spans as text: `from,until` in microseconds since 1970, with semicolons between them; an open end is empty.
pub fn to_text(spans: &[Span]) -> String {
    let parts: Vec<String> = spans
        .iter()
        .map(|span| {
            let until = span
                .until
                .map_or(String::new(), |until| until.micros().to_string());
            format!("{},{until}", span.from.micros())
        })
        .collect();
    parts.join(";")
}

/// The inverse of [`to_text`]; `None` for any other text.
pub fn from_text(text: &str) -> Option<Vec<Span>> {
    let instant = |digits: &str| digits.parse().ok().map(Instant::from_micros);
    text.split(';')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (from, until) = part.split_once(',')?;
            Some(Span {
                from: instant(from)?,
                until: if until.is_empty() {
                    None
                } else {
                    Some(instant(until)?)
                },
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from: i64, until: Option<i64>) -> Span {
        Span {
            from: Instant::from_micros(from),
            until: until.map(Instant::from_micros),
        }
    }

    fn at(spans: &[Span], at: i64) -> State {
        state(spans, Instant::from_micros(at))
    }

    #[test]
    fn consent_lasts_from_the_moment_it_is_given_to_the_moment_it_is_withdrawn() {
        let spans = [span(10, Some(20)), span(30, None)];
        assert_eq!(at(&spans, 9), State::Unrecorded);
        assert_eq!(at(&spans, 10), State::Given);
        assert_eq!(at(&spans, 19), State::Given);
        assert_eq!(at(&spans, 20), State::Withdrawn);
        assert_eq!(at(&spans, 29), State::Withdrawn);
        assert_eq!(at(&spans, 30), State::Given);
        assert_eq!(at(&[], 30), State::Unrecorded);
    }

    #[test]
    fn one_consent_that_lasts_is_enough() {
        assert_eq!(at(&[span(1, Some(5)), span(2, Some(9))], 6), State::Given);
        // A withdrawal without a consent before it.
        assert_eq!(at(&[span(3, Some(3))], 3), State::Withdrawn);
    }

    #[test]
    fn spans_are_read_back() {
        for spans in [
            vec![],
            vec![span(-5, Some(7))],
            vec![span(1, None), span(2, Some(3))],
        ] {
            assert_eq!(from_text(&to_text(&spans)), Some(spans));
        }
        assert_eq!(from_text("1"), None);
        assert_eq!(from_text("a,b"), None);
    }
}
