//! Utility statements as the server's parse trees have them: which struct begins with which tag, so that looking
//! at one is safe.

use pgrx::pg_sys;

use crate::pg::list;

/// A struct of a parse tree that begins with a node of its own tag.
///
/// # Safety
/// `TAG` must be the tag by which the server marks this struct and no other.
pub unsafe trait Statement {
    const TAG: pg_sys::NodeTag;
}

macro_rules! statements {
    ($($name:ident = $tag:ident),* $(,)?) => {
        $(
            // SAFETY: the server names each tag after its struct.
            unsafe impl Statement for pg_sys::$name {
                const TAG: pg_sys::NodeTag = pg_sys::NodeTag::$tag;
            }
        )*
    };
}

statements! {
    AlterDatabaseStmt = T_AlterDatabaseStmt,
    AlterDomainStmt = T_AlterDomainStmt,
    AlterEnumStmt = T_AlterEnumStmt,
    AlterExtensionContentsStmt = T_AlterExtensionContentsStmt,
    AlterExtensionStmt = T_AlterExtensionStmt,
    AlterFdwStmt = T_AlterFdwStmt,
    AlterForeignServerStmt = T_AlterForeignServerStmt,
    AlterFunctionStmt = T_AlterFunctionStmt,
    AlterObjectDependsStmt = T_AlterObjectDependsStmt,
    AlterObjectSchemaStmt = T_AlterObjectSchemaStmt,
    AlterOwnerStmt = T_AlterOwnerStmt,
    AlterPublicationStmt = T_AlterPublicationStmt,
    AlterSubscriptionStmt = T_AlterSubscriptionStmt,
    AlterSystemStmt = T_AlterSystemStmt,
    AlterTableStmt = T_AlterTableStmt,
    AlterUserMappingStmt = T_AlterUserMappingStmt,
    CopyStmt = T_CopyStmt,
    CreateExtensionStmt = T_CreateExtensionStmt,
    CreateForeignServerStmt = T_CreateForeignServerStmt,
    CreateForeignTableStmt = T_CreateForeignTableStmt,
    CreateFunctionStmt = T_CreateFunctionStmt,
    CreatePublicationStmt = T_CreatePublicationStmt,
    CreateStatsStmt = T_CreateStatsStmt,
    CreateStmt = T_CreateStmt,
    CreateSubscriptionStmt = T_CreateSubscriptionStmt,
    CreateTableAsStmt = T_CreateTableAsStmt,
    CreateTableSpaceStmt = T_CreateTableSpaceStmt,
    CreateUserMappingStmt = T_CreateUserMappingStmt,
    CreatedbStmt = T_CreatedbStmt,
    DropStmt = T_DropStmt,
    DropdbStmt = T_DropdbStmt,
    ExplainStmt = T_ExplainStmt,
    ImportForeignSchemaStmt = T_ImportForeignSchemaStmt,
    IndexStmt = T_IndexStmt,
    RefreshMatViewStmt = T_RefreshMatViewStmt,
    RenameStmt = T_RenameStmt,
}

// A reference to a struct of the server's is to one that the parser or the server made, with lists and nodes of the
// kinds that the grammar puts there. That is what the functions below rest on.

/// The node as `T`, when it is one.
fn node<'a, T>(node: *mut pg_sys::Node, tag: pg_sys::NodeTag) -> Option<&'a T> {
    // SAFETY: NULL or a node of a parse tree, which begins with its tag; the callers name the tag of `T`.
    unsafe {
        let found = node.as_ref()?;
        (found.type_ == tag).then(|| &*node.cast::<T>())
    }
}

/// The parts of an ALTER TABLE.
pub fn commands(alter: &pg_sys::AlterTableStmt) -> Vec<&pg_sys::AlterTableCmd> {
    // SAFETY: ALTER TABLE carries a list of AlterTableCmd nodes, which lives as long as the statement.
    unsafe { list::items(alter.cmds) }
}

/// What ATTACH PARTITION or DETACH PARTITION names.
pub fn partition(command: &pg_sys::AlterTableCmd) -> Option<&pg_sys::PartitionCmd> {
    node(command.def, pg_sys::NodeTag::T_PartitionCmd)
}

/// The constraints in the definition of a column that ADD COLUMN makes, its default and its identity among them.
pub fn constraints(command: &pg_sys::AlterTableCmd) -> Vec<&pg_sys::Constraint> {
    let column: Option<&pg_sys::ColumnDef> = node(command.def, pg_sys::NodeTag::T_ColumnDef);
    // SAFETY: a ColumnDef carries a list of Constraint nodes, which lives as long as the statement.
    column.map_or_else(Vec::new, |column| unsafe {
        list::items(column.constraints)
    })
}

/// The tables of a CREATE STATISTICS.
pub fn statistics_of(create: &pg_sys::CreateStatsStmt) -> Vec<&pg_sys::RangeVar> {
    // SAFETY: the grammar puts a list of nodes there, and the server takes none but a RangeVar.
    let relations = unsafe { list::items::<pg_sys::Node>(create.relations) };
    relations
        .into_iter()
        .filter_map(|relation| {
            node(
                std::ptr::from_ref(relation).cast_mut(),
                pg_sys::NodeTag::T_RangeVar,
            )
        })
        .collect()
}
