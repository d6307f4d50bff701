//! What every change of a label has in common: who may make it, the epoch it begins, and who must hear of it.

use pgrx::pg_sys;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::evidence::{ledger, refusal};
use crate::guard::lane::{archive, keep};
use crate::guard::{opening, row, sentinel, tls, widening};
use crate::pg::{inherit, label, lock, relation, xact};
use crate::policy::epoch;
use crate::policy::law_clock::Clocks;
use crate::tag::grammar::{self, SubjectTag};
use crate::tag::rules::{Change, Class};
use crate::tag::target::{Label, Target};
use crate::worker;

/// Fails unless the current user may change anything at all about a label: the table's owner, or a steward.
/// Asked before anything is locked.
pub fn authorize_at_all(target: &Target) -> Result<()> {
    if relation::is_steward() || relation::is_owner(target.relation) {
        return Ok(());
    }
    Err(stranger(target))
}

fn stranger(target: &Target) -> Error {
    let action = format!("tag {}", target.describe());
    let error = Error::new(
        Kind::InsufficientPrivilege,
        format!("must be owner of the table or a data steward to {action}"),
    );
    refusal::of_decision(&action, error)
}

/// Fails unless the current user may make this change to a label, and from where the session is. `owner` says whether the
/// user owns the table.
pub fn authorize(target: &Target, change: &Change, new: Option<&Label>, owner: bool) -> Result<()> {
    permit(target, change, owner)?;
    opening::before(target, change, new)
}

/// As what a change is permitted: a malformed label closes what it is on, so that whatever comes in its place may open it.
pub fn asked(change: &Change, malformed: bool) -> Change {
    if malformed {
        Change {
            class: Class::Loosen,
            reasons: Vec::new(),
        }
    } else {
        change.clone()
    }
}

/// The same, wherever the session is.
fn permit(target: &Target, change: &Change, owner: bool) -> Result<()> {
    if relation::is_steward() {
        return Ok(());
    }
    if !owner {
        return Err(stranger(target));
    }
    if change.class < Class::Loosen {
        return Ok(());
    }
    match change.reasons.as_slice() {
        [] => relation::require_steward(&format!("remove the tag of {}", target.describe())),
        [only] if only.field == "not_personal" => {
            relation::require_steward(&format!("clear {} as not personal", target.describe()))
        }
        _ => relation::require_steward(&format!("loosen the tag of {}", target.describe()))
            .map_err(|error| error.detail(change.sentences())),
    }
}

/// Fails unless the current user may declare the subjects of a table: refusals would tell the owner of a table of
/// one's own which subjects are held, so a kind that somebody else's table declares is a steward's to add to.
fn authorize_subject(target: &Target, old: Option<&Label>, new: Option<&Label>) -> Result<()> {
    fn subject(label: Option<&Label>) -> Option<&SubjectTag> {
        match label {
            Some(Label::Table(tag)) => tag.subject.as_ref(),
            _ => None,
        }
    }
    let Some(declared) = subject(new) else {
        return Ok(());
    };
    if subject(old) == Some(declared) || relation::is_steward() {
        return Ok(());
    }
    let others = label::everywhere()
        .into_iter()
        .any(|(other, attnum, text)| {
            attnum == 0
                && other != target.relation
                && relation::owner(other).is_ok()
                && !relation::is_owner(other)
                && grammar::parse_table(&text)
                    .ok()
                    .and_then(|tag| tag.subject)
                    .is_some_and(|subject| subject.kind == declared.kind)
        });
    if !others {
        return Ok(());
    }
    relation::require_steward(&format!(
        "tag {} with subjects of kind \"{}\", which a table of another owner has",
        target.describe(),
        declared.kind
    ))
}

/// Whether this database keeps a policy to which a change of a label belongs.
pub fn keeps_policy() -> bool {
    !xact::is_upgrade()
        && !xact::in_recovery()
        && relation::extension_oid().is_some()
        && relation::own_relation(c"epoch").is_some()
}

/// Begins the epoch of a change, before the label is written: from here on no batch of the worker runs on the
/// table until the transaction ends. Does nothing in a database without the extension, where labels may be
/// restored before it.
pub fn begin(target: &Target, old: Option<&Label>, new: Option<&Label>) -> Result<()> {
    if !keeps_policy() {
        return Ok(());
    }
    authorize_subject(target, old, new)?;
    lock::epoch(inherit::root(target.relation), lock::Mode::Exclusive)?;
    row::relabel::before_change(target.relation, target.attnum, old, new)?;
    keep::before_label()?;
    archive::before_label(target, old, new)?;
    if target.attnum > 0 {
        widening::before_label(
            target.relation,
            target.attnum,
            old.and_then(Label::column),
            new.and_then(Label::column),
        )?;
    }
    let code = match (old, new) {
        (_, None) => "tag.removed",
        (None, Some(_)) => "tag.added",
        (Some(_), Some(_)) => "tag.changed",
    };
    record(code, target, old, new)?;
    if target.attnum > 0 {
        // Under the policy's lock: whoever takes the last such tag off takes the label of the database with it.
        tls::before_label(new.and_then(Label::column))?;
    }
    Ok(())
}

/// The same for a label that follows a rename: it means what it meant, so holds have nothing against it.
pub fn begin_renamed(target: &Target, old: &Label, new: &Label) -> Result<()> {
    if !keeps_policy() {
        return Ok(());
    }
    lock::labels(target.relation)?;
    lock::epoch(inherit::root(target.relation), lock::Mode::Exclusive)?;
    record("tag.renamed", target, Some(old), Some(new))
}

/// The same for a label that a partition got when it was detached, or had before, once it is attached again: its
/// table's tags are in force on it, so holds have nothing against it.
pub fn begin_put_back(target: &Target, old: &Label, new: Option<&Label>) -> Result<()> {
    if !keeps_policy() {
        return Ok(());
    }
    lock::labels(target.relation)?;
    lock::epoch(inherit::root(target.relation), lock::Mode::Exclusive)?;
    record("tag.put_back", target, Some(old), new)
}

/// The same for a tag that is derived while a statement makes its table, or fills a materialized view. Nothing is ever
/// disposed of by it, so no batch has to be kept away and no other change of policy to wait for: anybody may make a table,
/// and keep the transaction open. The ledger has it as any other, and the epoch is begun as the transaction commits,
/// or by the scheduler where somebody changes the policy just then. Tags of materialized views are in no record of a policy,
/// and begin none.
pub fn begin_derived(target: &Target, old: Option<&Label>, new: &Label) -> Result<()> {
    let apart = inherit::root(target.relation) == target.relation
        && (relation::is_new(target.relation) || relation::is_materialized_view(target.relation));
    // The label of the database, which goes with one that demands TLS, is decided under the policy's lock.
    if !apart || tls::demanded_by(new.column()) {
        return begin(target, old, Some(new));
    }
    if !keeps_policy() {
        return Ok(());
    }
    widening::before_label(
        target.relation,
        target.attnum,
        old.and_then(Label::column),
        new.column(),
    )?;
    let code = if old.is_some() {
        "tag.changed"
    } else {
        "tag.added"
    };
    ledger::append(code, &target.name, detail(old, Some(new))?)?;
    xact::before_commit();
    Ok(())
}

fn detail(old: Option<&Label>, new: Option<&Label>) -> Result<serde_json::Value> {
    let json = |label: Option<&Label>| label.map(Label::json).transpose();
    Ok(json!({ "old": json(old)?, "new": json(new)? }))
}

fn record(code: &str, target: &Target, old: Option<&Label>, new: Option<&Label>) -> Result<()> {
    epoch::advance(code, &target.name, detail(old, new)?)?;
    Ok(())
}

/// Brings everything that follows from labels up to date, after the label was written.
pub fn finish(relation: pg_sys::Oid) -> Result<()> {
    if !keeps_policy() {
        return Ok(());
    }
    worker::wake(Some(xact::database()));
    tls::after_label()?;
    keep::after_label()?;
    sentinel::announce();
    row::sync(relation)
}

/// Writes a label after checking rights, or removes it; `None` when nothing changes. The caller has checked
/// what the label means.
///
/// Errors: 42501 without these rights; 22023 where a statutory minimum would run from another clock.
pub fn write(target: &Target, new: Option<&Label>) -> Result<Option<Change>> {
    authorize_at_all(target)?;
    // As SECURITY LABEL does: one change of a table's labels at a time.
    lock::labels(target.relation)?;
    let mut clocks = Clocks::default();
    if keeps_policy() {
        clocks.below(target.relation);
    }
    let change = write_one_of_several(target, new)?;
    clocks.stay()?;
    Ok(change)
}

/// The same for one of several labels that are written together: whether minimums keep their clocks then is the caller's to
/// look at.
pub fn write_one_of_several(target: &Target, new: Option<&Label>) -> Result<Option<Change>> {
    authorize_at_all(target)?;
    lock::labels(target.relation)?;
    let owner = relation::is_owner(target.relation);
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
    let change = target.classify(old.as_ref(), new);
    authorize(target, &asked(&change, malformed), new, owner)?;
    let text = new.map(Label::text).transpose()?;
    if change.class == Class::Same
        && label::get(target.relation, target.attnum).is_some() == new.is_some()
    {
        return Ok(None);
    }
    begin(target, old.as_ref(), new)?;
    label::set(target.relation, target.attnum, text.as_deref())?;
    finish(target.relation)?;
    Ok(Some(change))
}
