//! The label provider: what SECURITY LABEL FOR custodian meets.
//!
//! Labels are restored before configuration, keys and constraints, so only syntax and types are checked here.
//! What a label means is checked by the functions that write labels, and by the compiler.

use std::cell::RefCell;
use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::guard::tls;
use crate::pg::per_statement::PerStatement;
use crate::pg::utility::Utility;
use crate::pg::{label, relation, xact};
use crate::policy::law_clock::Clocks;
use crate::tag::change;
use crate::tag::rules::Class;
use crate::tag::target::Target;

/// What a SECURITY LABEL changes, where it is one of ours.
#[derive(Default)]
struct Relabelled {
    relation: Option<pg_sys::Oid>,
    /// From which clocks minimums ran before.
    clocks: Clocks,
}

thread_local! {
    /// Of those that are running: an event trigger may run others inside one.
    static RELABELLED: RefCell<PerStatement<Relabelled>> = const { RefCell::new(PerStatement::new()) };
}

/// Asked by the server after it checked that the user owns the object, and before it writes the label; an error refuses it.
pub fn check(object: &pg_sys::ObjectAddress, label: Option<&CStr>) -> Result<()> {
    if object.classId == pg_sys::DatabaseRelationId {
        let text = label.map(CStr::to_string_lossy);
        return tls::check_database_label(object.objectId, text.as_deref());
    }
    if object.classId != pg_sys::RelationRelationId {
        return Err(Error::new(
            Kind::WrongObjectType,
            "provider \"custodian\" labels only tables and columns",
        )
        .hint("Tag ordinary tables, partitioned tables, foreign tables and their columns."));
    }
    let target = Target::attribute(object.objectId, object.objectSubId)?;
    let new = match label {
        None => None,
        Some(text) => {
            let text = text.to_str().map_err(|_| {
                Error::new(
                    Kind::InvalidTag,
                    format!("invalid tag for {}", target.describe()),
                )
                .detail("It is not valid UTF-8.")
            })?;
            Some(target.parse(text)?)
        }
    };
    let (old, malformed) = match target.current() {
        None => (None, false),
        Some(Ok(old)) => (Some(old), false),
        Some(Err(_)) => {
            // Nobody can say what replacing it amounts to.
            relation::require_steward(&format!(
                "replace the malformed label of {}",
                target.describe()
            ))?;
            (None, true)
        }
    };
    let change = target.classify(old.as_ref(), new.as_ref());
    let asked = change::asked(&change, malformed);
    change::authorize(&target, &asked, new.as_ref(), true)?;
    let mut clocks = Clocks::default();
    if malformed || change.class != Class::Same {
        // A restore writes labels where there were none, in an order of its own: a child's may come after its parent's.
        let restored = old.is_none() && relation::is_steward();
        if !restored && change::keeps_policy() {
            clocks.below(target.relation);
        }
        change::begin(&target, old.as_ref(), new.as_ref())?;
    }
    label::invalidate(object.objectId);
    RELABELLED.with_borrow_mut(|running| {
        if let Some(relabelled) = running.current() {
            *relabelled = Relabelled {
                relation: Some(object.objectId),
                clocks,
            };
        }
    });
    Ok(())
}

/// Before a utility statement: a SECURITY LABEL begins.
pub fn before(utility: Utility) -> Result<()> {
    if utility.node.type_ == pg_sys::NodeTag::T_SecLabelStmt {
        RELABELLED.with_borrow_mut(|running| running.begin(Relabelled::default()));
    }
    Ok(())
}

/// After a utility statement: once a SECURITY LABEL of ours has written its label, what follows from it is
/// brought up to date.
pub fn after(utility: Utility) -> Result<()> {
    if utility.node.type_ != pg_sys::NodeTag::T_SecLabelStmt {
        return Ok(());
    }
    let relabelled = RELABELLED
        .with_borrow_mut(PerStatement::end)
        .unwrap_or_default();
    let Some(relation) = relabelled.relation else {
        return Ok(());
    };
    // The label that the statement wrote.
    xact::command_done();
    relabelled.clocks.stay()?;
    change::finish(relation)
}
