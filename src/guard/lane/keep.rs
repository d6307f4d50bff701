//! DDL gate, for publications of open lanes: a change that would leave a lane unusable is refused before anything goes
//! through it, such as a row filter that is dropped. The sentinel would end the flow only seconds later.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::ddl;
use crate::guard::lane::model::Lane;
use crate::guard::lane::{qualify, store};
use crate::guc::{self, Enforce, Gate};
use crate::pg::relation;
use crate::pg::utility::{self, Utility};
use crate::pg::xact;

thread_local! {
    /// The lanes that can be used before the statement that is being executed.
    static USABLE: RefCell<Vec<Lane>> = const { RefCell::new(Vec::new()) };
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
    if !guc::preloaded()
        || guc::enforce(Gate::Ddl) == Enforce::Off
        || relation::extension_oid().is_none()
    {
        return Ok(());
    }
    let Some(name) = utility::text(alter.pubname).map(|name| name.to_string_lossy()) else {
        return Ok(());
    };
    let mut usable = Vec::new();
    for lane in store::open_lanes()? {
        if lane.publications.iter().any(|known| *known == name)
            && qualify::publications(&lane.publications, &lane.transfer)?.is_ok()
        {
            usable.push(lane);
        }
    }
    USABLE.with(|lanes| lanes.replace(usable));
    Ok(())
}

/// After a utility statement: refuses it where one of these lanes cannot be used any more.
pub fn after(statement: &Utility) -> Result<()> {
    if changed(statement).is_none() {
        return Ok(());
    }
    let lanes = USABLE.with(RefCell::take);
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
        .hint("Keep list of columns and row filter as the transfer demands them (custodian.publication_filter() writes the filter), or close the lane first.");
        ddl::decide(
            format!("publications of lane {}", lane.id),
            Some(lane.transfer.region),
            error,
            true,
        )?;
    }
    Ok(())
}
