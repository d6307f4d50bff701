//! DDL gate, for open lanes: a change of a publication or of a tag that would leave a lane unusable is refused before
//! anything goes through it, such as a row filter that is dropped, or a residency column that the filter does not ask for.
//! The sentinel would end the flow only seconds later.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::ddl;
use crate::guard::lane::model::Lane;
use crate::guard::lane::{qualify, store};
use crate::guc::{self, Enforce, Gate};
use crate::pg::relation;
use crate::pg::statement::text;
use crate::pg::utility::Utility;
use crate::pg::xact;

thread_local! {
    /// The lanes that can be used before the statement that is being executed.
    static USABLE: RefCell<Vec<Lane>> = const { RefCell::new(Vec::new()) };
    /// The same before the label that is being written.
    static UNDER_TAGS: RefCell<Vec<Lane>> = const { RefCell::new(Vec::new()) };
}

/// The publication that a statement changes, unless it only takes tables out of it.
fn changed<'a>(statement: &Utility<'a>) -> Option<&'a pg_sys::AlterPublicationStmt> {
    let alter = statement.cast::<pg_sys::AlterPublicationStmt>()?;
    (alter.action != pg_sys::AlterPublicationAction::AP_DropObjects || !alter.options.is_null())
        .then_some(alter)
}

/// Before a utility statement: notes which lanes over the publication can be used.
pub fn before(statement: &Utility) -> Result<()> {
    let Some(alter) = changed(statement) else {
        return Ok(());
    };
    USABLE.with_borrow_mut(Vec::clear);
    let Some(name) = text!(alter.pubname).map(|name| name.to_string_lossy()) else {
        return Ok(());
    };
    let found = usable(|lane| lane.publications.iter().any(|known| *known == name))?;
    USABLE.with(|lanes| lanes.replace(found));
    Ok(())
}

/// The lanes of this kind that can be used now; none while the gate is off.
fn usable(wanted: impl Fn(&Lane) -> bool) -> Result<Vec<Lane>> {
    if !guc::preloaded()
        || guc::enforce(Gate::Ddl) == Enforce::Off
        || relation::extension_oid().is_none()
    {
        return Ok(Vec::new());
    }
    let mut usable = Vec::new();
    for lane in store::open_lanes()? {
        if wanted(&lane) && qualify::publications(&lane.publications, &lane.transfer)?.is_ok() {
            usable.push(lane);
        }
    }
    Ok(usable)
}

/// Before a label is written: notes which lanes can be used.
pub fn before_label() -> Result<()> {
    UNDER_TAGS.with_borrow_mut(Vec::clear);
    let found = usable(|_| true)?;
    UNDER_TAGS.with(|lanes| lanes.replace(found));
    Ok(())
}

/// After a label was written: refuses it where one of these lanes cannot be used any more.
pub fn after_label() -> Result<()> {
    refuse_unusable(
        UNDER_TAGS.with(RefCell::take),
        "Have the publication's row filter imply what the new tag demands as well, first (custodian.publication_filter() writes \
         a filter), or close the lane with custodian.close_lane().",
    )
}

/// After a utility statement: refuses it where one of these lanes cannot be used any more.
pub fn after(statement: &Utility) -> Result<()> {
    if changed(statement).is_none() {
        return Ok(());
    }
    refuse_unusable(
        USABLE.with(RefCell::take),
        "Keep list of columns and row filter as the transfer demands them (custodian.publication_filter() writes the filter), or close the lane first.",
    )
}

fn refuse_unusable(lanes: Vec<Lane>, remedy: &str) -> Result<()> {
    if lanes.is_empty() {
        return Ok(());
    }
    xact::command_done();
    for lane in lanes {
        let Err(reason) = qualify::publications(&lane.publications, &lane.transfer)? else {
            continue;
        };
        let error = Error::new(
            Kind::RegionRefused,
            format!("lane {} could not be used any more", lane.id),
        )
        .detail(reason)
        .hint(remedy);
        ddl::decide(
            format!("publications of lane {}", lane.id),
            Some(lane.transfer.region),
            error,
            true,
        )?;
    }
    Ok(())
}
