//! Access gate, continued: the first tag of a column opens it where it says that it may be read.
//!
//! An owner may add a tag, since a tag makes most things stricter. But a column that nobody has reviewed is read inside
//! alone, and a residency in its tag lets others read it. From outside, where the one who tags could read it then, that is
//! a steward's decision.

use crate::error::{Error, Kind, Result};
use crate::guard::access;
use crate::guard::refuse::{self, Flow};
use crate::guard::session;
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::relation;
use crate::tag::grammar::ColumnLabel;
use crate::tag::rules::{Change, Class};
use crate::tag::target::{Label, Target};

/// Whether a first label of a column says where it may be, or leaves that to each row.
fn opens(target: &Target, new: Option<&Label>) -> bool {
    match new.and_then(Label::column) {
        Some(ColumnLabel::Tag(tag)) => {
            tag.residency_of_all().is_some() || access::columns(target.relation).by_row.is_some()
        }
        // Rows do not pass by their own residency through a column with such a tag.
        Some(ColumnLabel::Derived(derived)) => derived.residency.is_some(),
        Some(ColumnLabel::NotPersonal) | None => false,
    }
}

/// Before the first label of a column is written: refuses one that opens the column, to who is neither inside nor a steward.
pub fn before_first(target: &Target, change: &Change, new: Option<&Label>) -> Result<()> {
    if change.class != Class::Add
        || target.attnum <= 0
        || session::is_known_in_region()
        || !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
        || relation::is_steward()
        || !opens(target, new)
    {
        return Ok(());
    }
    let session = session::current();
    let judgement = &session.judgement;
    if judgement.verdict == Verdict::Inside {
        return Ok(());
    }
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "saying from {} where {} may be is not allowed",
            session.peer,
            target.describe()
        ),
    )
    .detail(format!(
        "Nobody has reviewed it, and its tag would let sessions outside read it. {}",
        judgement.reason
    ))
    .hint("Have a data steward tag it, or connect from inside; without a residency an owner may tag it from anywhere, where the table has no residency_column.");
    refuse::unless_only_warned(
        Flow::of(&session, Gate::Access, target.name.clone(), error),
        |_| {},
    )
}
