//! Changes of a type that show through in kept cells of tables that use it: another name of an enum's value,
//! an attribute that a composite type loses.

use pgrx::pg_sys;

use crate::error::Result;
use crate::guard::row::veto::{Asked, refuse_if_column_kept};
use crate::pg::fresh::{self, Seen};
use crate::pg::sql_type;
use crate::pg::statement::{self, names};

/// Columns of tables whose values hold values of the type: as they are, in arrays, domains, ranges, or in
/// columns of other composite types.
const COLUMNS: &str = "WITH RECURSIVE uses (type) AS (SELECT $1::oid UNION \
    SELECT o.type FROM uses u CROSS JOIN LATERAL ( \
      SELECT t.oid FROM pg_type t WHERE t.typelem = u.type AND t.typlen = -1 \
      UNION ALL SELECT t.oid FROM pg_type t WHERE t.typbasetype = u.type \
      UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngsubtype = u.type \
      UNION ALL SELECT r.rngmultitypid FROM pg_range r WHERE r.rngtypid = u.type \
      UNION ALL SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
        WHERE a.atttypid = u.type AND a.attnum > 0 AND NOT a.attisdropped AND c.reltype <> 0) o (type)) \
    SELECT DISTINCT c.oid, a.attname FROM uses u JOIN pg_attribute a ON a.atttypid = u.type \
    JOIN pg_class c ON c.oid = a.attrelid \
    WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2";

/// Refuses while a column that uses the type has kept values. `what` completes "cannot …".
pub fn refuse_if_used(type_oid: pg_sys::Oid, asked: Asked, what: &str) -> Result<()> {
    if type_oid == pg_sys::Oid::INVALID {
        return Ok(());
    }
    for row in &fresh::rows(COLUMNS, &[type_oid.into()], Seen::Everything, 0)? {
        refuse_if_column_kept(fresh::oid(row, 0)?, fresh::must(row, 1)?, asked, what)?;
    }
    Ok(())
}

/// Before ALTER TYPE … RENAME VALUE.
pub fn before_enum(statement: &pg_sys::AlterEnumStmt) -> Result<()> {
    if statement.oldVal.is_null() {
        return Ok(());
    }
    let name = names!(statement.typeName);
    let type_oid = statement::enum_of(statement);
    // The server refuses everyone else in its own words.
    if type_oid == pg_sys::Oid::INVALID || !sql_type::is_owner(type_oid) {
        return Ok(());
    }
    // The values themselves may be personal data: they are not named.
    refuse_if_used(
        type_oid,
        Asked::Changed,
        &format!("rename a value of type \"{}\"", name.join(".")),
    )
}
