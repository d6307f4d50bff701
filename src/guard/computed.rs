//! Access gate, continued: statements that compute over the rows of a table without reading it as a query does.
//!
//! A new index, constraint, generated column or type of a column evaluates expressions on every row. Their functions can tell
//! what they see, and so does the error of one that fails. The executor's permission check does not see it, so from
//! outside such a statement counts as reading the whole row. A table that the transaction itself has made has no other rows
//! than its own.

use pgrx::pg_sys;

use crate::error::{Error, Kind, Result};
use crate::evidence::events::Database;
use crate::guard::access;
use crate::guard::refuse::{self, Flow};
use crate::guard::session::{self, Session};
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::statement::{self, node};
use crate::pg::utility::Utility;
use crate::pg::{inherit, relation, xact};

/// Whether a definition of a column has more than a default: a check, a key, or an expression that generates it.
fn is_computed(command: &pg_sys::AlterTableCmd) -> bool {
    use pg_sys::ConstrType as Kind;
    statement::constraints(command).iter().any(|constraint| {
        !matches!(
            constraint.contype,
            Kind::CONSTR_NULL | Kind::CONSTR_NOTNULL | Kind::CONSTR_DEFAULT | Kind::CONSTR_IDENTITY
        )
    })
}

/// Whether a part of ALTER TABLE evaluates something on the rows that are there.
fn computes(command: &pg_sys::AlterTableCmd) -> bool {
    use pg_sys::AlterTableType as Kind;
    match command.subtype {
        Kind::AT_AddColumn => is_computed(command),
        Kind::AT_AlterColumnType
        | Kind::AT_AddConstraint
        | Kind::AT_ValidateConstraint
        | Kind::AT_AttachPartition => true,
        _ => false,
    }
}

/// The table whose rows ATTACH PARTITION evaluates the partition's constraint on, with the expressions of the key. Of
/// an index nothing is evaluated.
fn attached(command: &pg_sys::AlterTableCmd) -> Option<&pg_sys::RangeVar> {
    if command.subtype != pg_sys::AlterTableType::AT_AttachPartition {
        return None;
    }
    let partition = statement::partition(command)?;
    if partition.bound.is_null() {
        return None;
    }
    node!(partition.name)
}

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    use pg_sys::NodeTag;
    if !matches!(
        statement.node.type_,
        NodeTag::T_AlterTableStmt
            | NodeTag::T_IndexStmt
            | NodeTag::T_CreateStatsStmt
            | NodeTag::T_AlterDomainStmt
    ) || session::is_known_inside()
        || !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
    {
        return Ok(());
    }
    let session = session::current();
    let inside = session.judgement.verdict == Verdict::Inside;
    // What scripts of extensions make is the extensions' own.
    if (inside && !session.plaintext) || xact::in_extension_script() {
        return Ok(());
    }
    if let Some(index) = statement.cast::<pg_sys::IndexStmt>() {
        return rows_of(node!(index.relation), &session);
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterTableStmt>() {
        let commands = statement::commands(alter);
        for command in &commands {
            if let Some(table) = attached(command) {
                rows_of(Some(table), &session)?;
            }
        }
        if commands.into_iter().any(computes) {
            return rows_of(node!(alter.relation), &session);
        }
        return Ok(());
    }
    // What it defines is evaluated by ANALYZE, whoever runs that.
    if let Some(statistics) = statement.cast::<pg_sys::CreateStatsStmt>() {
        for table in statement::statistics_of(statistics) {
            rows_of(Some(table), &session)?;
        }
        return Ok(());
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterDomainStmt>()
        && matches!(alter.subtype as u8, b'C' | b'V')
        && !inside
    {
        return domain(&session);
    }
    Ok(())
}

/// The rows of a table, and of those below it.
fn rows_of(name: Option<&pg_sys::RangeVar>, session: &Session) -> Result<()> {
    let Some(table) = relation::named(name) else {
        // The server says so.
        return Ok(());
    };
    if !relation::is_owner(table) {
        // The server refuses it, and says nothing of the table's tags.
        return Ok(());
    }
    let mut tables = inherit::descendants(table);
    tables.push(table);
    tables
        .into_iter()
        .filter(|table| !relation::is_new(*table))
        .try_for_each(|table| access::whole_row(table, session))
}

/// A constraint of a domain is evaluated on the columns of that type, in whatever table.
fn domain(session: &Session) -> Result<()> {
    let judgement = &session.judgement;
    let error = Error::new(
        Kind::RegionRefused,
        format!(
            "adding a constraint to a domain from {} is not allowed",
            session.peer
        ),
    )
    .detail(format!(
        "It is evaluated on values of every table with a column of this domain. {}",
        judgement.reason
    ))
    .hint(judgement.remedy.clone());
    refuse::unless_only_warned(
        Flow {
            gate: Gate::Access,
            database: Database::current(),
            role: session.role.clone(),
            peer: session.peer.clone(),
            region: judgement.region.clone(),
            object: "ALTER DOMAIN".to_owned(),
            error,
        },
        |_| {},
    )
}
