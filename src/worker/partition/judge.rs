//! Which partitions may be dropped, as the catalogs have it: those for a past time to which nothing else is tied.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use super::proof::{self, Range};
use crate::error::Result;
use crate::guc;
use crate::pg::{sandbox, spi, time};
use crate::policy::model::{Leaf, Plan, Policy};
use crate::policy::period::Instant;
use crate::policy::render::{self, Due};

/// A partition that may be dropped once all of its rows are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub parent: u32,
    /// The relations above it, nearest first.
    pub above: Vec<u32>,
    /// As ALTER TABLE … ATTACH PARTITION takes it.
    pub bound: String,
    /// A default partition beside it rules DETACH … CONCURRENTLY out.
    pub concurrently: bool,
    /// The ranges of time that its rows lie in.
    pub ranges: Vec<Range>,
    /// The column whose bound shows that every row is past; `None`: rows must be looked at.
    pub by_bound: Option<String>,
    /// Changes of its rows are sent to others, which a DROP would not tell, and of which nobody declared that they dispose
    /// by themselves.
    pub published: bool,
}

/// What a partition is to be treated as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nobody asked, or it is none for a past time.
    Ordinary,
    /// It could go by its time, and stays for this reason.
    Stays(String),
    Candidate(Candidate),
}

/// One step up from a partition.
struct Level {
    parent: u32,
    partition: bool,
    table: bool,
    bound: Option<String>,
    by_range_of: Option<String>,
    expressions: bool,
    owner: u32,
    has_default: bool,
    pending: bool,
}

fn levels(leaf: &Leaf) -> Result<Vec<Level>> {
    spi::kept(
        "WITH RECURSIVE chain (depth, child, parent, pending) AS (
             SELECT 1, inhrelid, inhparent, inhdetachpending FROM pg_inherits WHERE inhrelid = $1
             UNION ALL
             SELECT depth + 1, i.inhrelid, i.inhparent, i.inhdetachpending
             FROM chain JOIN pg_inherits i ON i.inhrelid = chain.parent)
         SELECT chain.parent, c.relispartition, c.relkind = 'r', pg_get_expr(c.relpartbound, c.oid),
                CASE WHEN p.partstrat = 'r'
                      AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
                     THEN a.attname::text END,
                coalesce(p.partexprs IS NOT NULL, true), above.relowner, coalesce(p.partdefid <> 0, false), chain.pending
         FROM chain
         JOIN pg_class c ON c.oid = chain.child
         JOIN pg_class above ON above.oid = chain.parent
         LEFT JOIN pg_partitioned_table p ON p.partrelid = chain.parent
         LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
         ORDER BY chain.depth",
        &[pg_sys::Oid::from(leaf.id).into()],
        |row| {
            Ok(Level {
                parent: row.must::<pg_sys::Oid>(1)?.to_u32(),
                partition: row.must(2)?,
                table: row.must(3)?,
                bound: row.get(4)?,
                by_range_of: row.get(5)?,
                expressions: row.must(6)?,
                owner: row.must::<pg_sys::Oid>(7)?.to_u32(),
                has_default: row.must(8)?,
                pending: row.must(9)?,
            })
        },
    )
}

/// A bound's value as the moment it is in UTC; `None` for a day that no timestamp reaches.
fn moment(value: &str) -> Result<Option<Instant>> {
    let found = spi::kept_one(
        "SELECT CASE WHEN $1::date < '294277-01-01' THEN $1::timestamptz END",
        &[value.into()],
        |row| Ok(row.get::<TimestampWithTimeZone>(1)?.map(time::instant)),
    )?;
    Ok(found.flatten())
}

fn ranges(levels: &[Level]) -> Result<Vec<Range>> {
    let mut ranges = Vec::new();
    for level in levels {
        let values = level.bound.as_deref().and_then(proof::first_values);
        if let (Some(column), Some((from, until))) = (&level.by_range_of, values)
            && let (Some(from), Some(until)) = (moment(from)?, moment(until)?)
        {
            ranges.push(Range {
                column: column.clone(),
                from,
                until,
            });
        }
    }
    Ok(ranges)
}

/// The bounds that hold for every row of a leaf.
#[derive(Clone)]
pub struct Bounds(Vec<Range>);

impl Bounds {
    /// As the catalogs have them now; none of a table that is no partition.
    pub fn of(leaf: &Leaf) -> Result<Bounds> {
        if leaf.within.len() < 2 {
            return Ok(Bounds(Vec::new()));
        }
        sandbox::as_extension_owner(|| {
            let mut levels = levels(leaf)?;
            // Above a relation that is no partition, or on its way out, bounds say nothing about its rows.
            let bound = levels
                .iter()
                .take_while(|level| level.partition && !level.pending)
                .count();
            levels.truncate(bound);
            Ok(Bounds(ranges(&levels)?))
        })
    }

    /// The columns of time that are neither NULL nor infinite in any row.
    pub fn columns(&self) -> Vec<String> {
        self.0.iter().map(|range| range.column.clone()).collect()
    }

    /// Whether they show that the leaf has no row which the step is for, so that nobody need look for one.
    pub fn leave_out(&self, due: &Due) -> bool {
        !self.0.is_empty() && proof::leaves_out(&self.0, &render::ranges(due))
    }
}

/// What would break, or be left out, if the partition were dropped.
fn tied(leaf: &Leaf, parent: u32, family: &[pg_sys::Oid]) -> Result<Option<String>> {
    spi::select_one(
        "SELECT CASE
             WHEN EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY ($2))
                 THEN 'foreign keys refer to the table'
             WHEN EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 8 <> 0)
                 THEN 'a trigger fires when rows are deleted'
             WHEN EXISTS (SELECT FROM pg_rewrite WHERE ev_class = $1 AND ev_type = '4')
                 THEN 'a rule says what a DELETE does'
             WHEN EXISTS (SELECT FROM pg_depend d JOIN pg_class t ON t.oid = $1
                          WHERE d.deptype = 'n'
                            AND ((d.refclassid = 'pg_class'::regclass AND d.refobjid = $1)
                                 OR (d.refclassid = 'pg_type'::regclass AND d.refobjid = t.reltype))
                            -- Its own triggers, constraints, policies and so on go with it.
                            AND NOT EXISTS (SELECT FROM pg_depend own
                                            WHERE own.classid = d.classid AND own.objid = d.objid
                                              AND own.refclassid = 'pg_class'::regclass AND own.refobjid = $1
                                              AND own.deptype IN ('a', 'i')))
                 THEN 'other objects depend on it'
             WHEN EXISTS (SELECT FROM pg_depend
                          WHERE classid = 'pg_class'::regclass AND objid = $1 AND deptype = 'e')
                 THEN 'an extension needs it'
             ELSE (SELECT concat('dropping it failed with SQLSTATE ', p.sqlstate) FROM custodian.partition_drop p
                   WHERE p.leaf = $1 AND p.retry_at > clock_timestamp()
                   UNION ALL
                   SELECT 'another partition of the table is being detached'
                   WHERE EXISTS (SELECT FROM pg_inherits i
                                 WHERE i.inhparent = $3 AND i.inhrelid <> $1 AND i.inhdetachpending)
                   LIMIT 1)
         END",
        &[
            pg_sys::Oid::from(leaf.id).into(),
            family.to_vec().into(),
            pg_sys::Oid::from(parent).into(),
        ],
        |row| row.get::<String>(1),
    )
    .map(Option::flatten)
}

/// Whether changes of rows of these relations are sent to others that depend on them to dispose: by a publication of which
/// it is not declared that its subscribers do so by themselves, or by a slot of which nobody knows what it sends.
pub(super) fn published(family: &[pg_sys::Oid]) -> Result<bool> {
    Ok(spi::select_one(
        "SELECT EXISTS (
                 SELECT FROM pg_publication p
                 WHERE (p.puballtables
                        OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = ANY ($1))
                        OR EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid
                                   WHERE n.pnpubid = p.oid AND c.oid = ANY ($1)))
                   AND NOT EXISTS (SELECT FROM ONLY custodian.subscriber_disposal d WHERE d.publication = p.pubname))
             OR EXISTS (SELECT FROM pg_replication_slots
                        WHERE slot_type = 'logical' AND database = current_database() AND plugin <> 'pgoutput')",
        &[family.to_vec().into()],
        |row| row.must::<bool>(1),
    )?
    .unwrap_or(true))
}

/// Judges a leaf of the plan at `cutoff`. Reads catalogs only. `quarantined` says that rows of it could not be
/// disposed of lately.
pub fn judge(
    plan: &Plan,
    policy: &Policy,
    leaf: &Leaf,
    cutoff: Instant,
    quarantined: bool,
) -> Result<Judgement> {
    if !guc::drop_partitions() || !plan.delete_rows || plan.groups.is_empty() {
        return Ok(Judgement::Ordinary);
    }
    sandbox::as_extension_owner(|| {
        let levels = levels(leaf)?;
        let (Some(first), true) = (
            levels.first(),
            levels
                .iter()
                .all(|level| level.partition && !level.expressions),
        ) else {
            return Ok(Judgement::Ordinary);
        };
        let bound = match &first.bound {
            Some(bound) if first.table && !first.pending && bound != "DEFAULT" => bound.clone(),
            _ => return Ok(Judgement::Ordinary),
        };
        let ranges = ranges(&levels)?;
        if !ranges.iter().any(|range| range.until <= cutoff) {
            return Ok(Judgement::Ordinary);
        }
        let above: Vec<u32> = levels.iter().map(|level| level.parent).collect();
        let mut family: Vec<pg_sys::Oid> = above.iter().copied().map(pg_sys::Oid::from).collect();
        family.push(pg_sys::Oid::from(leaf.id));
        let why = if !plan.dependents.is_empty() || !plan.circle.is_empty() {
            Some("foreign keys refer to the table".to_owned())
        } else if levels.iter().any(|level| level.owner != leaf.owner) {
            Some("it and the table have several owners".to_owned())
        } else if quarantined {
            Some("rows of it are in quarantine".to_owned())
        } else {
            tied(leaf, first.parent, &family)?
        };
        if let Some(why) = why {
            return Ok(Judgement::Stays(why));
        }
        let held = policy
            .holds
            .iter()
            .any(|hold| render::concerns(hold, plan, Some(leaf)));
        let by_bound = ranges
            .iter()
            .find(|range| !held && proof::all_past(plan, range, cutoff))
            .map(|range| range.column.clone());
        Ok(Judgement::Candidate(Candidate {
            parent: first.parent,
            bound,
            concurrently: !first.has_default,
            by_bound,
            published: published(&family)?,
            ranges,
            above,
        }))
    })
}
