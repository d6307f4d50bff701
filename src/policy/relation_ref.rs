//! The tables that holds name: by name, which travels with a dump, and by OID in a cache that does not.
//! Runs as the extension's owner.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{relation, sandbox, spi};
use crate::policy::hold_read;

/// The reference of a relation, made if there is none.
pub fn reference(relation: pg_sys::Oid) -> Result<i64> {
    sandbox::as_extension_owner(|| {
        let known = spi::write(
            "SELECT ref FROM custodian.relation_oid WHERE reloid = $1 ORDER BY ref LIMIT 1",
            &[relation.into()],
            |row| row.must::<i64>(1),
        )?;
        if let Some(known) = known.first() {
            return Ok(*known);
        }
        let made = spi::write(
            "INSERT INTO custodian.relation_ref (nspname, relname) \
             SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1 RETURNING ref",
            &[relation.into()],
            |row| row.must::<i64>(1),
        )?;
        let made = *made
            .first()
            .ok_or_else(|| Error::internal("the relation to refer to is not there"))?;
        spi::execute(
            "INSERT INTO custodian.relation_oid (ref, reloid) VALUES ($1, $2)",
            &[made.into(), relation.into()],
        )?;
        Ok(made)
    })
}

/// Whether former names are kept: not before ALTER EXTENSION UPDATE from a version before 0.2.0.
fn keeps_names() -> bool {
    relation::own_relation(c"hold_former_name").is_some()
}

/// After a relation or schema was renamed: the references follow. What holds named before is kept, the first of several names
/// in a transaction.
pub fn refresh_names() -> Result<()> {
    let keeps_names = keeps_names();
    sandbox::as_extension_owner(|| {
        if keeps_names {
            spi::execute(
                "INSERT INTO custodian.hold_former_name (hold, nspname, relname, matching) \
                 SELECT h.hold, r.nspname, r.relname, h.matching FROM custodian.hold h \
                 JOIN custodian.relation_ref r ON r.ref = h.relation JOIN custodian.relation_oid o ON o.ref = r.ref \
                 JOIN pg_catalog.pg_class c ON c.oid = o.reloid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE r.nspname <> n.nspname OR r.relname <> c.relname ON CONFLICT DO NOTHING",
                &[],
            )?;
        }
        spi::execute(
            "UPDATE custodian.relation_ref r SET nspname = n.nspname, relname = c.relname \
             FROM custodian.relation_oid o JOIN pg_catalog.pg_class c ON c.oid = o.reloid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE o.ref = r.ref AND (r.nspname <> n.nspname OR r.relname <> c.relname)",
            &[],
        )?;
        Ok(())
    })
}

/// After a column was renamed in some relations: holds that match rows by it follow.
pub fn rename_column(relations: &[pg_sys::Oid], old: &str, new: &str) -> Result<()> {
    let keeps_names = keeps_names();
    let relations = relations.to_vec();
    sandbox::as_extension_owner(|| {
        if keeps_names {
            spi::execute(
                "INSERT INTO custodian.hold_former_name (hold, nspname, relname, matching) \
                 SELECT h.hold, r.nspname, r.relname, h.matching FROM custodian.hold h \
                 JOIN custodian.relation_ref r ON r.ref = h.relation JOIN custodian.relation_oid o ON o.ref = r.ref \
                 WHERE o.reloid = ANY ($1) AND h.released_at IS NULL AND h.matching ? $2 ON CONFLICT DO NOTHING",
                &[relations.clone().into(), old.into()],
            )?;
        }
        spi::execute(
            "UPDATE custodian.hold h SET matching = (h.matching - $2) \
             || pg_catalog.jsonb_build_object($3, h.matching -> $2) \
             FROM custodian.relation_oid o WHERE o.ref = h.relation AND o.reloid = ANY ($1) \
             AND h.released_at IS NULL AND h.matching ? $2",
            &[relations.into(), old.into(), new.into()],
        )?;
        Ok(())
    })
}

/// After a restore: finds the tables by their names and remembers their OIDs, so that later renames are
/// followed.
pub fn adopt() -> Result<()> {
    for hold in hold_read::unresolved()? {
        let (reference, Some(relation)) = hold else {
            continue;
        };
        if relation::qualified(relation)?.is_none() {
            continue;
        }
        sandbox::as_extension_owner(|| {
            spi::execute(
                "INSERT INTO custodian.relation_oid (ref, reloid) VALUES ($1, $2) \
                 ON CONFLICT (ref) DO UPDATE SET reloid = excluded.reloid",
                &[reference.into(), relation.into()],
            )?;
            Ok(())
        })?;
    }
    Ok(())
}
