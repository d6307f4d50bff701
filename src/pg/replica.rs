//! Whether the server lets rows of a published table be changed: it refuses UPDATE and DELETE that it could not
//! tell subscribers about (`CheckCmdReplicaIdentity`).

use pgrx::pg_sys;

/// Why the server refuses a kind of statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// No replica identity.
    NoIdentity,
    /// A row filter reads columns outside of the replica identity.
    RowFilter,
    /// A column list leaves columns of the replica identity out.
    ColumnList,
}

/// What stands in the way of UPDATE and of DELETE in an ordinary table. Reads caches of catalogs without locking
/// the table: the answer is of this moment.
pub fn obstacles(relation: pg_sys::Oid) -> (Option<Obstacle>, Option<Obstacle>) {
    // SAFETY: the relation's cache entry is pinned while it is read, and NULL where there is none; the description
    // is written by the server.
    unsafe {
        let opened = pg_sys::RelationIdGetRelation(relation);
        if opened.is_null() {
            return (None, None);
        }
        let mut publication = pg_sys::PublicationDesc::default();
        pg_sys::RelationBuildPublicationDesc(opened, &mut publication);
        let identified = pg_sys::RelationGetReplicaIndex(opened) != pg_sys::InvalidOid
            || (*(*opened).rd_rel).relreplident as u8 == b'f';
        pg_sys::RelationClose(opened);
        let obstacle = |published: bool, rows: bool, columns: bool| {
            if !rows {
                Some(Obstacle::RowFilter)
            } else if !columns {
                Some(Obstacle::ColumnList)
            } else if published && !identified {
                Some(Obstacle::NoIdentity)
            } else {
                None
            }
        };
        (
            obstacle(
                publication.pubactions.pubupdate,
                publication.rf_valid_for_update,
                publication.cols_valid_for_update,
            ),
            obstacle(
                publication.pubactions.pubdelete,
                publication.rf_valid_for_delete,
                publication.cols_valid_for_delete,
            ),
        )
    }
}
