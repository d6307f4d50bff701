//! Access gate, continued: changes of tags that let others read; and, of the gate on statements, lanes that are opened.
//!
//! An owner may add a tag, since a tag makes most things stricter; a steward may loosen. But a column that nobody has reviewed is
//! read inside alone, and a residency in its tag lets others read it; so does a residency that grows, a column that is cleared, a
//! tag that goes. From outside, where the one who changes it could read it then, nobody does that while there are rules, a superuser
//! neither: as with the guard's own settings. Before there are rules stewards do.

use crate::error::{Error, Kind, Result};
use crate::guard::access;
use crate::guard::refuse::{self, Flow};
use crate::guard::session;
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::{relation, xact};
use crate::tag::grammar::ColumnLabel;
use crate::tag::rules::{Change, Class};
use crate::tag::target::{Label, Target};

/// The members of a tag that say who may have the data, or by which transfers are found to cover it. What is left says when it
/// goes, and stays.
const OPENS: [&str; 8] = [
    "category",
    "purposes",
    "residency",
    "tls",
    "paths",
    "not_personal",
    "derived",
    "residency_column",
];

/// Whether a first label of a column says where it may be, or leaves that to each row.
fn says_where(target: &Target, new: Option<&Label>) -> bool {
    match new.and_then(Label::column) {
        Some(ColumnLabel::Tag(tag)) => {
            tag.residency_of_all().is_some() || access::columns(target.relation).by_row.is_some()
        }
        // Rows do not pass by their own residency through a column with such a tag.
        Some(ColumnLabel::Derived(derived)) => derived.residency.is_some(),
        Some(ColumnLabel::NotPersonal) | None => false,
    }
}

/// Whether what a change loosens may open something. A tag that goes may uncover that of a parent, or end what a table says of its
/// rows. Pure.
fn loosens_where(change: &Change) -> bool {
    change.class == Class::Loosen
        && (change.reasons.is_empty()
            || change
                .reasons
                .iter()
                .any(|reason| OPENS.contains(&reason.field)))
}

/// Before a label is written: refuses what may let others read, to who is not inside.
pub fn before(target: &Target, change: &Change, new: Option<&Label>) -> Result<()> {
    if session::is_known_in_region()
        || !guc::preloaded()
        // Nobody else can be connected then, and the tags are those of before.
        || xact::is_upgrade()
        || guc::enforce(Gate::Access) == Enforce::Off
    {
        return Ok(());
    }
    let first = change.class == Class::Add && target.attnum > 0 && says_where(target, new);
    if !first && !loosens_where(change) {
        return Ok(());
    }
    let session = session::current();
    let judgement = &session.judgement;
    // Before there are rules nothing that says where it may be is read anywhere else, and stewards set up what will be in force.
    // What a steward clears is read from anywhere then too; so it is where the rules file is gone, or wrong without a copy.
    let sets_up = session.active.rules.is_none() && relation::is_steward();
    if judgement.verdict == Verdict::Inside || sets_up {
        return Ok(());
    }
    let (what, why, hint) = if first {
        (
            format!(
                "saying from {} where {} may be",
                session.peer,
                target.describe()
            ),
            "Nobody has reviewed it, and its tag would let sessions outside read it.",
            "Have it done from inside; without a residency it may be tagged from anywhere, where the table has no residency_column.",
        )
    } else {
        (
            format!(
                "loosening the tag of {} from {}",
                target.describe(),
                session.peer
            ),
            "It could let sessions outside have what they may not have now.",
            "Have it done from inside. What only says when data goes may be changed from anywhere.",
        )
    };
    let error = Error::new(Kind::RegionRefused, format!("{what} is not allowed"))
        .detail(format!("{why} {}", judgement.reason))
        .hint(hint);
    refuse::unless_only_warned(
        Flow::of(&session, Gate::Access, target.name.clone(), error),
        |_| {},
    )
}

/// Refuses who is not inside to open a lane, whoever it is: who is to receive does not say what may be sent. `doing` is what the
/// message calls it.
pub fn lane(doing: &str, transfer: &str) -> Result<()> {
    from_inside(
        Gate::Ddl,
        doing,
        format!("transfer {transfer}"),
        "Have it opened from inside.",
    )
}

/// Refuses who is not inside to change what the guard is made of. `what` completes "cannot …".
pub fn structure(what: &str) -> Result<()> {
    // It makes the extension again piece by piece, and nobody else can be connected.
    if xact::is_upgrade() {
        return Ok(());
    }
    from_inside(
        Gate::Access,
        &format!("to {what}, by which the guard goes,"),
        what.to_owned(),
        "Have it done from inside.",
    )
}

/// Refuses who is not inside to take the label off another database whose walsenders need TLS by it.
pub fn database(name: &str) -> Result<()> {
    from_inside(
        Gate::Access,
        &format!("removing the label of database \"{name}\""),
        format!("database {name}"),
        "It goes by itself with the last tag there that demands TLS.",
    )
}

/// Refuses something to who is not inside, where there are rules.
fn from_inside(gate: Gate, doing: &str, object: String, hint: &str) -> Result<()> {
    if !guc::preloaded() || guc::enforce(gate) == Enforce::Off {
        return Ok(());
    }
    let session = session::current();
    if session.judgement.verdict == Verdict::Inside || session.active.rules.is_none() {
        return Ok(());
    }
    let error = Error::new(
        Kind::RegionRefused,
        format!("{doing} from {} is not allowed", session.peer),
    )
    .detail(session.judgement.reason.clone())
    .hint(hint);
    refuse::unless_only_warned(Flow::of(&session, gate, object, error), |_| {})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::grammar::{parse_column, parse_table};
    use crate::tag::rules::{classify_column, classify_table};

    const TAG: &str = r#"{"category":"user.contact.email","sensitivity":"sensitive","purposes":["a.b"],"residency":["cn"],"tls":true}"#;

    fn column(old: &str, new: &str) -> bool {
        let [old, new] =
            [old, new].map(|text| (!text.is_empty()).then(|| parse_column(text).unwrap()));
        loosens_where(&classify_column(old.as_ref(), new.as_ref()))
    }

    fn table(old: &str, new: &str) -> bool {
        let [old, new] =
            [old, new].map(|text| (!text.is_empty()).then(|| parse_table(text).unwrap()));
        loosens_where(&classify_table(old.as_ref(), new.as_ref()))
    }

    #[test]
    fn what_lets_others_have_a_column_opens_it() {
        for (from, to) in [
            (r#"["cn"]"#, r#"["cn","eu"]"#),
            (r#""tls":true"#, r#""tls":false"#),
            ("contact.email", "device"),
            (r#"["a.b"]"#, r#"["a.b","c.d"]"#),
        ] {
            let new = TAG.replace(from, to);
            assert_ne!(new, TAG);
            assert!(column(TAG, &new), "{to}");
        }
        assert!(column(TAG, ""));
        assert!(column(TAG, r#"{"not_personal":true}"#));
        assert!(column("", r#"{"not_personal":true}"#));
    }

    #[test]
    fn what_closes_a_column_or_says_when_it_goes_does_not() {
        let wider = TAG.replace(r#"["cn"]"#, r#"["cn","eu"]"#);
        assert!(!column(&wider, TAG));
        assert!(!column(r#"{"not_personal":true}"#, TAG));
        assert!(!column(TAG, TAG));
        let clock = TAG.replace(r#""tls""#, r#""clock":"seen_at","tls""#);
        assert!(!column(TAG, &clock));
        let masked = TAG.replace(r#""tls""#, r#""on_expiry":"set_null","tls""#);
        assert!(!column(&masked, TAG));
    }

    #[test]
    fn a_table_opens_by_its_residency_column_and_by_the_end_of_its_tag() {
        let by_row = r#"{"residency_column":"country"}"#;
        assert!(table("", by_row));
        assert!(table(by_row, r#"{"residency_column":"other"}"#));
        assert!(table(by_row, ""));
        assert!(!table("", r#"{"clock":"seen_at"}"#));
        assert!(!table(r#"{"clock":"seen_at"}"#, r#"{"clock":"made_at"}"#));
    }
}
