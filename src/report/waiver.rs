//! Which findings a waiver covers. Pure.

use crate::policy::model::Finding;
use crate::policy::period::Instant;

/// A finding that somebody answers for until a day, so that it is not reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiver {
    pub id: i64,
    pub code: String,
    pub object: String,
    pub owner: String,
    pub expires_at: Instant,
}

/// The waiver among those not revoked that covers the finding at `now`. It names code and object exactly: an object
/// that was renamed is one that nobody answered for.
pub fn covering<'a>(waivers: &'a [Waiver], finding: &Finding, now: Instant) -> Option<&'a Waiver> {
    waivers.iter().find(|waiver| {
        waiver.code == finding.code && waiver.object == finding.object && now < waiver.expires_at
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::Severity;

    fn finding(code: &'static str, object: &str) -> Finding {
        Finding {
            severity: Severity::Warning,
            code,
            object: object.to_owned(),
            problem: String::new(),
            remedy: String::new(),
        }
    }

    #[test]
    fn a_waiver_covers_its_finding_until_it_expires_and_no_other() {
        let waivers = [Waiver {
            id: 7,
            code: "run-waiting".to_owned(),
            object: "shop.customer".to_owned(),
            owner: "li".to_owned(),
            expires_at: Instant::from_micros(1000),
        }];
        let covered = |finding: &Finding, now| {
            covering(&waivers, finding, Instant::from_micros(now)).map(|waiver| waiver.id)
        };
        let waived = finding("run-waiting", "shop.customer");
        assert_eq!(covered(&waived, 999), Some(7));
        assert_eq!(covered(&waived, 1000), None);
        assert_eq!(covered(&finding("run-failed", "shop.customer"), 0), None);
        assert_eq!(covered(&finding("run-waiting", "shop.customers"), 0), None);
    }
}
