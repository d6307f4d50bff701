//! Access gate, continued: statements that compute over the rows of a table without reading it as a query does.
//!
//! A new index, constraint, generated column or type of a column evaluates expressions on every row, and a trigger, a rule or a
//! policy on those that sessions inside write and read later. Their functions can tell
//! what they see, and so does the error of one that fails. What a table is clustered by shows in the order of its rows, and
//! whether a default partition stands in the way of another one in an error. The executor's permission check does not see
//! it, so from outside such a statement counts as reading the whole row. A table that the transaction itself has made has no
//! other rows than its own.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::access;
use crate::guard::refuse;
use crate::guard::scripts;
use crate::guard::session::{self, Session};
use crate::guard::verdict::Verdict;
use crate::guc::{self, Enforce, Gate};
use crate::pg::fresh::{self, Seen};
use crate::pg::statement::{self, node, string, text};
use crate::pg::utility::Utility;
use crate::pg::{inherit, namespace, relation, xact};
use crate::tag::rename;

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

/// Whether a part of ALTER TABLE evaluates something on the rows that are there. Those that do not are named: whatever the
/// server may learn to do counts as one that does.
fn computes(command: &pg_sys::AlterTableCmd) -> bool {
    use pg_sys::AlterTableType as Kind;
    match command.subtype {
        Kind::AT_AddColumn => is_computed(command),
        Kind::AT_ColumnDefault
        | Kind::AT_DropNotNull
        | Kind::AT_DropExpression
        | Kind::AT_SetStatistics
        | Kind::AT_SetOptions
        | Kind::AT_ResetOptions
        | Kind::AT_SetStorage
        | Kind::AT_SetCompression
        | Kind::AT_DropColumn
        | Kind::AT_AlterConstraint
        | Kind::AT_DropConstraint
        | Kind::AT_AlterColumnGenericOptions
        | Kind::AT_ChangeOwner
        | Kind::AT_DropCluster
        | Kind::AT_DropOids
        | Kind::AT_SetTableSpace
        | Kind::AT_SetRelOptions
        | Kind::AT_ResetRelOptions
        | Kind::AT_EnableTrig
        | Kind::AT_EnableAlwaysTrig
        | Kind::AT_EnableReplicaTrig
        | Kind::AT_DisableTrig
        | Kind::AT_EnableTrigAll
        | Kind::AT_DisableTrigAll
        | Kind::AT_EnableTrigUser
        | Kind::AT_DisableTrigUser
        | Kind::AT_EnableRule
        | Kind::AT_EnableAlwaysRule
        | Kind::AT_EnableReplicaRule
        | Kind::AT_DisableRule
        | Kind::AT_DropInherit
        | Kind::AT_AddOf
        | Kind::AT_DropOf
        | Kind::AT_ReplicaIdentity
        | Kind::AT_EnableRowSecurity
        | Kind::AT_DisableRowSecurity
        | Kind::AT_ForceRowSecurity
        | Kind::AT_NoForceRowSecurity
        | Kind::AT_GenericOptions
        | Kind::AT_DetachPartition
        | Kind::AT_DetachPartitionFinalize
        | Kind::AT_AddIdentity
        | Kind::AT_SetIdentity
        | Kind::AT_DropIdentity => false,
        // SET NOT NULL among them, and what writes the table anew (SET LOGGED, SET ACCESS METHOD), with all its indexes: their
        // expressions run on every row. INHERIT, too: the parent's tags would open columns that have none of their own. And
        // CLUSTER ON: the next CLUSTER without an index goes by it.
        _ => true,
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

/// Whether a statement may compute over rows.
fn is_of_interest(tag: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag;
    matches!(
        tag,
        NodeTag::T_AlterTableStmt
            | NodeTag::T_IndexStmt
            | NodeTag::T_ClusterStmt
            | NodeTag::T_CreateStmt
            | NodeTag::T_CreateForeignTableStmt
            | NodeTag::T_CreateStatsStmt
            | NodeTag::T_AlterDomainStmt
            | NodeTag::T_CreateTrigStmt
            | NodeTag::T_RuleStmt
            | NodeTag::T_CreatePolicyStmt
            | NodeTag::T_AlterPolicyStmt
    )
}

/// The table that a trigger, a rule or a policy is put on, and the lock that the server takes. What it is given runs in sessions
/// inside later, on rows that may not be read where it was written.
fn planted_on<'s>(statement: &'s Utility<'s>) -> Option<(Option<&'s pg_sys::RangeVar>, u32)> {
    if let Some(trigger) = statement.cast::<pg_sys::CreateTrigStmt>() {
        return Some((node!(trigger.relation), pg_sys::ShareRowExclusiveLock));
    }
    let table = if let Some(rule) = statement.cast::<pg_sys::RuleStmt>() {
        node!(rule.relation)
    } else if let Some(policy) = statement.cast::<pg_sys::CreatePolicyStmt>() {
        node!(policy.table)
    } else {
        let policy = statement.cast::<pg_sys::AlterPolicyStmt>()?;
        node!(policy.table)
    };
    Some((table, pg_sys::AccessExclusiveLock))
}

/// Checks a statement before it is executed.
pub fn before(statement: &Utility) -> Result<()> {
    if !is_of_interest(statement.node.type_)
        || session::is_known_inside()
        || !guc::preloaded()
        || guc::enforce(Gate::Access) == Enforce::Off
    {
        return Ok(());
    }
    let session = session::current();
    // What scripts of extensions make is the extensions' own. The tables that pg_upgrade restores are empty yet, and nobody else
    // can be connected.
    if (session.judgement.verdict == Verdict::Inside && !session.plaintext)
        || (xact::in_extension_script() && !scripts::may_others_write())
        || xact::is_upgrade()
    {
        return Ok(());
    }
    if let Some(index) = statement.cast::<pg_sys::IndexStmt>() {
        let lock = if index.concurrent {
            pg_sys::ShareUpdateExclusiveLock
        } else {
            pg_sys::ShareLock
        };
        let reach = Reach::of(node!(index.relation), &[]);
        return rows_of(node!(index.relation), reach, lock as i32, &session);
    }
    if let Some(alter) = statement.cast::<pg_sys::AlterTableStmt>() {
        let commands = statement::commands(alter);
        if commands.iter().copied().any(computes) {
            let reach = Reach::of(node!(alter.relation), &commands);
            rows_of(
                node!(alter.relation),
                reach,
                statement::lock_of(alter),
                &session,
            )?;
        }
        // After the table that it is attached to, as the server locks them.
        for table in commands.into_iter().filter_map(attached) {
            rows_of(
                Some(table),
                Reach::Tree,
                pg_sys::AccessExclusiveLock as i32,
                &session,
            )?;
        }
        return Ok(());
    }
    if let Some((table, lock)) = planted_on(statement) {
        // A trigger may be put on others' tables by who has the right to, and by owners on views.
        let may = |table| relation::is_owner(table) || relation::may_have_triggers(table);
        return match relation::named_and_locked(table, lock as i32, may) {
            Some(table) => whole_or_below(table, &session),
            None => Ok(()),
        };
    }
    if let Some(cluster) = statement.cast::<pg_sys::ClusterStmt>() {
        if !cluster.relation.is_null() {
            return rows_of(
                node!(cluster.relation),
                Reach::Tree,
                pg_sys::AccessExclusiveLock as i32,
                &session,
            );
        }
        return refuse::outside(
            "CLUSTER",
            "clustering all tables",
            "The order of rows would show values that they are clustered by.",
            &session,
        );
    }
    if let Some(create) = statement.cast::<pg_sys::CreateStmt>() {
        with_expressions(create, &session)?;
        return beside_default(create, &session);
    }
    if let Some(create) = statement.cast::<pg_sys::CreateForeignTableStmt>() {
        with_expressions(&create.base, &session)?;
        return beside_default(&create.base, &session);
    }
    // What it defines is evaluated by ANALYZE, whoever runs that, also on the rows of those below.
    if let Some(statistics) = statement.cast::<pg_sys::CreateStatsStmt>() {
        for table in statement::statistics_of(statistics) {
            rows_of(
                Some(table),
                Reach::Tree,
                pg_sys::ShareUpdateExclusiveLock as i32,
                &session,
            )?;
        }
        return Ok(());
    }
    // Add, validate, and set NOT NULL.
    if let Some(alter) = statement.cast::<pg_sys::AlterDomainStmt>()
        && matches!(alter.subtype as u8, b'C' | b'V' | b'O')
    {
        return refuse::outside(
            "ALTER DOMAIN",
            "adding a constraint to a domain",
            "It is evaluated on values of every table with a column of this domain.",
            &session,
        );
    }
    Ok(())
}

/// The table that stands where a statement would make one, so that IF NOT EXISTS makes none. One of its name elsewhere in the
/// search path does not.
fn in_its_place(create: &pg_sys::CreateStmt) -> Option<pg_sys::Oid> {
    let new: &pg_sys::RangeVar = node!(create.relation)?;
    if new.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP {
        return None;
    }
    let schema = match text!(new.schemaname) {
        None => namespace::for_new()?,
        Some(schema) => namespace::by_name(schema)?,
    };
    namespace::relation(schema, &string!(new.relname))
}

/// Whether a statement makes no partition of `parent`, since it is there already. It is locked as for reading, so that it is
/// still there when the server looks; the parent is not, since the server does not lock it then.
fn is_there(create: &pg_sys::CreateStmt, parent: pg_sys::Oid) -> bool {
    create.if_not_exists
        && relation::found_and_locked(
            || in_its_place(create),
            pg_sys::AccessShareLock as i32,
            |found| inherit::partitioned(found) == Some(parent),
        )
        .is_some()
}

/// A new partition: where there is a default one, its rows are compared with the new bounds.
fn beside_default(create: &pg_sys::CreateStmt, session: &Session) -> Result<()> {
    if create.partbound.is_null() {
        return Ok(());
    }
    for parent in statement::parents_of(create) {
        // Of a partition's parent; a weaker one would have to be raised in a moment.
        let lock = pg_sys::AccessExclusiveLock as i32;
        let may = |parent| relation::is_owner(parent) && !is_there(create, parent);
        if let Some(parent) = relation::named_and_locked(Some(parent), lock, may)
            && let Some(default) = inherit::default_partition(parent)
        {
            whole(default, Reach::Tree, session)?;
        }
    }
    Ok(())
}

/// A new partition with expressions of its own: they are evaluated on the rows that come to it.
fn with_expressions(create: &pg_sys::CreateStmt, session: &Session) -> Result<()> {
    use pg_sys::ConstrType as Kind;
    let has_some = statement::constraints_in(create).iter().any(|constraint| {
        matches!(
            constraint.contype,
            Kind::CONSTR_CHECK | Kind::CONSTR_GENERATED
        )
    });
    if create.partbound.is_null() || !has_some {
        return Ok(());
    }
    for parent in statement::parents_of(create) {
        if let Some(parent) =
            relation::named(Some(parent)).filter(|parent| relation::is_owner(*parent))
        {
            whole(parent, Reach::Only, session)?;
        }
    }
    Ok(())
}

/// The rows of a table and of those below it; of a view, those of the tables that its query reads.
pub fn whole_or_below(relation: pg_sys::Oid, session: &Session) -> Result<()> {
    whole(relation, Reach::Tree, session)?;
    if relation::kind(relation) != pg_sys::RELKIND_VIEW {
        return Ok(());
    }
    let read = fresh::rows(
        "WITH RECURSIVE read (oid) AS (
             SELECT $1::pg_catalog.oid
             UNION SELECT d.refobjid FROM read JOIN pg_catalog.pg_rewrite r ON r.ev_class = read.oid
                   JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
                   WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass)
         SELECT oid FROM read WHERE oid <> $1",
        &[relation.into()],
        Seen::Everything,
        0,
    )?;
    for row in &read {
        whole(fresh::oid(row, 0)?, Reach::Tree, session)?;
    }
    Ok(())
}

/// Whether a table is so new that nobody else's rows come to it: not a partition, or child, of one that was there.
fn is_nobodys(table: pg_sys::Oid) -> bool {
    let mut above = inherit::ancestors(table).into_iter();
    relation::is_new(table) && above.all(relation::is_new)
}

/// Whose rows a statement computes over.
#[derive(Clone, Copy)]
enum Reach {
    /// Those of the table itself.
    Only,
    /// Those of the tables below it as well.
    Tree,
}

impl Reach {
    /// As a statement names a table: `ONLY` keeps it from those below. But not ATTACH PARTITION, which compares the rows of a
    /// default partition.
    fn of(name: Option<&pg_sys::RangeVar>, commands: &[&pg_sys::AlterTableCmd]) -> Reach {
        let attaches = commands
            .iter()
            .any(|command| command.subtype == pg_sys::AlterTableType::AT_AttachPartition);
        if attaches || name.is_none_or(|name| name.inh) {
            Reach::Tree
        } else {
            Reach::Only
        }
    }
}

/// The rows of a table, and of those below it; of a composite type, those of its typed tables.
///
/// The lock is the one that the statement takes itself in a moment: whom it waited for could otherwise have put another table
/// in the place of the name meanwhile. On those below none is taken.
fn rows_of(
    name: Option<&pg_sys::RangeVar>,
    reach: Reach,
    lock: i32,
    session: &Session,
) -> Result<()> {
    // Of others' tables the server refuses it, and says nothing of their tags.
    let Some(table) = relation::named_and_locked(name, lock, relation::is_owner) else {
        return Ok(());
    };
    match relation::kind(table) {
        pg_sys::RELKIND_INDEX | pg_sys::RELKIND_PARTITIONED_INDEX => Ok(()),
        pg_sys::RELKIND_COMPOSITE_TYPE => rename::typed_tables(table)?
            .into_iter()
            .try_for_each(|table| whole(table, Reach::Tree, session)),
        _ => whole(table, reach, session),
    }
}

fn whole(table: pg_sys::Oid, reach: Reach, session: &Session) -> Result<()> {
    let mut tables = match reach {
        Reach::Only => Vec::new(),
        Reach::Tree => inherit::descendants(table),
    };
    tables.push(table);
    tables
        .into_iter()
        .filter(|table| !is_nobodys(*table))
        .try_for_each(|table| access::whole_row(table, session))
}
