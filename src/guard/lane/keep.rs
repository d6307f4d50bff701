//! DDL gate, for open lanes: a change of a publication or of a tag that would leave a lane unusable is refused before
//! anything goes through it, such as a row filter that is dropped, or a residency column that the filter does not ask for.
//! So is another publication that takes the name of one that a lane names: what runs on the lane would send what that one has.
//! The sentinel would end the flow only seconds later.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::ddl;
use crate::guard::lane::model::Lane;
use crate::guard::lane::{qualify, store};
use crate::guc::{self, Enforce, Gate};
use crate::pg::relation;
use crate::pg::statement::{string, text};
use crate::pg::utility::Utility;
use crate::pg::xact;

/// An open lane with those of its publications that fit its transfer: what runs on it may send what they have, also where others
/// do not fit, or are gone, since this very transaction.
struct Fitting {
    lane: Lane,
    publications: Vec<String>,
}

thread_local! {
    /// What fits before the statement that is being executed, of the publication that it changes.
    static BEFORE: RefCell<Vec<Fitting>> = const { RefCell::new(Vec::new()) };
    /// What fits before the label that is being written.
    static UNDER_TAGS: RefCell<Vec<Fitting>> = const { RefCell::new(Vec::new()) };
}

/// The publication that a statement changes, unless it only takes tables out of it.
fn changed<'a>(statement: &Utility<'a>) -> Option<&'a pg_sys::AlterPublicationStmt> {
    let alter = statement.cast::<pg_sys::AlterPublicationStmt>()?;
    (alter.action != pg_sys::AlterPublicationAction::AP_DropObjects || !alter.options.is_null())
        .then_some(alter)
}

/// The name that a statement gives to a publication that did not have it: lanes go by names.
fn newly_named(statement: &Utility) -> Option<String> {
    if let Some(create) = statement.cast::<pg_sys::CreatePublicationStmt>() {
        return Some(string!(create.pubname));
    }
    let rename = statement.cast::<pg_sys::RenameStmt>()?;
    (rename.renameType == pg_sys::ObjectType::OBJECT_PUBLICATION).then(|| string!(rename.newname))
}

/// Before a utility statement: notes for which lanes the publication fits.
pub fn before(statement: &Utility) -> Result<()> {
    let Some(alter) = changed(statement) else {
        return Ok(());
    };
    BEFORE.with_borrow_mut(Vec::clear);
    let Some(name) = text!(alter.pubname).map(|name| name.to_string_lossy()) else {
        return Ok(());
    };
    let found = fitting(|known| *known == name)?;
    BEFORE.with(|lanes| lanes.replace(found));
    Ok(())
}

/// Whether anything is looked at.
fn is_on() -> bool {
    guc::preloaded()
        && guc::enforce(Gate::Ddl) != Enforce::Off
        && relation::extension_oid().is_some()
}

/// The open lanes with those of their publications that are wanted and fit now; none while the gate is off.
fn fitting(wanted: impl Fn(&str) -> bool) -> Result<Vec<Fitting>> {
    if !is_on() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for lane in store::open_lanes()? {
        let mut publications = Vec::new();
        for name in lane.publications.iter().filter(|name| wanted(name)) {
            if qualify::publications(std::slice::from_ref(name), &lane.transfer)?.is_ok() {
                publications.push(name.clone());
            }
        }
        if !publications.is_empty() {
            found.push(Fitting { lane, publications });
        }
    }
    Ok(found)
}

/// Before a label is written: notes which publications of lanes fit.
pub fn before_label() -> Result<()> {
    UNDER_TAGS.with_borrow_mut(Vec::clear);
    let found = fitting(|_| true)?;
    UNDER_TAGS.with(|lanes| lanes.replace(found));
    Ok(())
}

/// After a label was written: refuses it where one of these publications fits its lane no more.
pub fn after_label() -> Result<()> {
    refuse_unusable(
        UNDER_TAGS.with(RefCell::take),
        "Have the publication's row filter imply what the new tag demands as well, first (custodian.publication_filter() writes \
         a filter), or close the lane with custodian.close_lane().",
    )
}

/// Refuses a publication that has got the name of one that an open lane names, and does not fit its transfer. Whether the lane
/// could be used before does not matter: it may have lost its publication in this very transaction.
fn refuse_unfit(name: &str) -> Result<()> {
    if !is_on() {
        return Ok(());
    }
    xact::command_done();
    let named = [name.to_owned()];
    for lane in store::open_lanes()? {
        if !lane.publications.contains(&named[0]) {
            continue;
        }
        let Err(reason) = qualify::publications(&named, &lane.transfer)? else {
            continue;
        };
        let error = Error::new(
            Kind::RegionRefused,
            format!("publication \"{name}\" does not fit lane {}, which names it", lane.id),
        )
        .detail(reason)
        .hint("Give it another name, have it carry what the transfer covers (custodian.publication_filter() writes a row filter), or close the lane with custodian.close_lane().");
        ddl::decide(
            format!("publication {name}"),
            Some(lane.transfer.region),
            error,
            true,
        )?;
    }
    Ok(())
}

/// After a utility statement: refuses it where the publication fits a lane no more, or a lane would carry another publication.
pub fn after(statement: &Utility) -> Result<()> {
    if let Some(name) = newly_named(statement) {
        return refuse_unfit(&name);
    }
    if changed(statement).is_none() {
        return Ok(());
    }
    refuse_unusable(
        BEFORE.with(RefCell::take),
        "Keep list of columns and row filter as the transfer demands them (custodian.publication_filter() writes the filter), or close the lane first.",
    )
}

fn refuse_unusable(before: Vec<Fitting>, remedy: &str) -> Result<()> {
    if before.is_empty() {
        return Ok(());
    }
    xact::command_done();
    for Fitting { lane, publications } in before {
        let Err(reason) = qualify::publications(&publications, &lane.transfer)? else {
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
