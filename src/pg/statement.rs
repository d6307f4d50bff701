//! Utility statements as the server's parse trees have them: which struct begins with which tag, so that looking
//! at one is safe.
//!
//! What a field points to is read by macros that take the struct and the field's name, such as `text!(statement.dbname)`:
//! the struct is one that the server made, so the field holds what the server puts there, for as long as the struct lives.

use std::ffi::{CStr, CString, c_char};

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
    AlterDatabaseSetStmt = T_AlterDatabaseSetStmt,
    AlterDatabaseStmt = T_AlterDatabaseStmt,
    AlterDomainStmt = T_AlterDomainStmt,
    AlterEnumStmt = T_AlterEnumStmt,
    AlterExtensionContentsStmt = T_AlterExtensionContentsStmt,
    AlterExtensionStmt = T_AlterExtensionStmt,
    AlterFdwStmt = T_AlterFdwStmt,
    AlterForeignServerStmt = T_AlterForeignServerStmt,
    AlterPolicyStmt = T_AlterPolicyStmt,
    AlterFunctionStmt = T_AlterFunctionStmt,
    AlterObjectDependsStmt = T_AlterObjectDependsStmt,
    AlterObjectSchemaStmt = T_AlterObjectSchemaStmt,
    AlterOwnerStmt = T_AlterOwnerStmt,
    AlterPublicationStmt = T_AlterPublicationStmt,
    AlterRoleSetStmt = T_AlterRoleSetStmt,
    AlterSubscriptionStmt = T_AlterSubscriptionStmt,
    AlterSystemStmt = T_AlterSystemStmt,
    AlterTableCmd = T_AlterTableCmd,
    AlterTableStmt = T_AlterTableStmt,
    AlterUserMappingStmt = T_AlterUserMappingStmt,
    ClusterStmt = T_ClusterStmt,
    ColumnDef = T_ColumnDef,
    Constraint = T_Constraint,
    CopyStmt = T_CopyStmt,
    CreateExtensionStmt = T_CreateExtensionStmt,
    CreateForeignServerStmt = T_CreateForeignServerStmt,
    CreateForeignTableStmt = T_CreateForeignTableStmt,
    CreateFunctionStmt = T_CreateFunctionStmt,
    CreatePublicationStmt = T_CreatePublicationStmt,
    CreateStatsStmt = T_CreateStatsStmt,
    CreateStmt = T_CreateStmt,
    CreatePolicyStmt = T_CreatePolicyStmt,
    CreateSeqStmt = T_CreateSeqStmt,
    CreateSubscriptionStmt = T_CreateSubscriptionStmt,
    CreateTableAsStmt = T_CreateTableAsStmt,
    CreateTableSpaceStmt = T_CreateTableSpaceStmt,
    CreateTrigStmt = T_CreateTrigStmt,
    CreateUserMappingStmt = T_CreateUserMappingStmt,
    CreatedbStmt = T_CreatedbStmt,
    DefElem = T_DefElem,
    DropStmt = T_DropStmt,
    DropdbStmt = T_DropdbStmt,
    ExecuteStmt = T_ExecuteStmt,
    ExplainStmt = T_ExplainStmt,
    ImportForeignSchemaStmt = T_ImportForeignSchemaStmt,
    IndexStmt = T_IndexStmt,
    IntoClause = T_IntoClause,
    ViewStmt = T_ViewStmt,
    ObjectWithArgs = T_ObjectWithArgs,
    PartitionCmd = T_PartitionCmd,
    PublicationObjSpec = T_PublicationObjSpec,
    PublicationTable = T_PublicationTable,
    Query = T_Query,
    RangeTblEntry = T_RangeTblEntry,
    RangeVar = T_RangeVar,
    ReassignOwnedStmt = T_ReassignOwnedStmt,
    RefreshMatViewStmt = T_RefreshMatViewStmt,
    RenameStmt = T_RenameStmt,
    RoleSpec = T_RoleSpec,
    RuleStmt = T_RuleStmt,
    String = T_String,
    TableLikeClause = T_TableLikeClause,
    TypeName = T_TypeName,
    VariableSetStmt = T_VariableSetStmt,
}

// A reference to a struct of the server's is to one that the parser or the server made, with lists and nodes of the
// kinds that the grammar puts there. That is what the functions and macros below rest on.

/// The node as `T`, when it is one.
pub fn cast<T: Statement>(node: &pg_sys::Node) -> Option<&T> {
    // SAFETY: the tag says which struct the node begins, and the trait that it is `T`.
    (node.type_ == T::TAG).then(|| unsafe { &*std::ptr::from_ref(node).cast::<T>() })
}

/// A field's pointer that is NULL or to a node, by its type: what points to characters or numbers is none.
pub trait NodePointer {
    fn to_node(self) -> *const pg_sys::Node;
}

impl NodePointer for *mut pg_sys::Node {
    fn to_node(self) -> *const pg_sys::Node {
        self
    }
}

// Each of them begins with its tag, as a node does.
impl<T: Statement> NodePointer for *mut T {
    fn to_node(self) -> *const pg_sys::Node {
        self.cast()
    }
}

/// What a field of `parent` points to, as `T` when it is one; `None` for NULL.
///
/// # Safety
/// The pointer must be NULL, or to a node that lives as long as `parent`.
pub unsafe fn child<P: Statement, T: Statement>(_: &P, pointer: *const pg_sys::Node) -> Option<&T> {
    // SAFETY: by the caller's promise.
    unsafe { pointer.as_ref() }.and_then(cast)
}

/// The same of whatever kind.
///
/// # Safety
/// As above.
pub unsafe fn any_child<P: Statement>(
    _: &P,
    pointer: *const pg_sys::Node,
) -> Option<&pg_sys::Node> {
    // SAFETY: by the caller's promise.
    unsafe { pointer.as_ref() }
}

/// The string that a field of `parent` points to; `None` for NULL.
///
/// # Safety
/// The pointer must be NULL, or to a NUL-terminated string that lives as long as `parent`.
pub unsafe fn text_in<P: Statement>(_: &P, pointer: *const c_char) -> Option<&CStr> {
    // SAFETY: by the caller's promise.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) })
}

/// The nodes of a list that a field of `parent` points to, without NULLs; none where it is NULL or no list of nodes.
///
/// # Safety
/// The pointer must be NULL, or to a list that lives as long as `parent`.
pub unsafe fn children<P: Statement>(_: &P, list: *mut pg_sys::List) -> Vec<&pg_sys::Node> {
    // SAFETY: by the caller's promise; lists of numbers have other tags.
    unsafe {
        match list.as_ref() {
            Some(found) if found.type_ == pg_sys::NodeTag::T_List => list::items(list),
            _ => Vec::new(),
        }
    }
}

/// The node that a field points to, as the type that is asked for when it is one.
macro_rules! node {
    ($parent:ident . $field:ident) => {
        // SAFETY: a field of a struct of the server's, which points to a node by its type, or is NULL.
        unsafe {
            $crate::pg::statement::child(
                $parent,
                $crate::pg::statement::NodePointer::to_node($parent.$field),
            )
        }
    };
}
pub(crate) use node;

/// The node that a field points to, whatever it is.
macro_rules! any_node {
    ($parent:ident . $field:ident) => {
        // SAFETY: as above.
        unsafe {
            $crate::pg::statement::any_child(
                $parent,
                $crate::pg::statement::NodePointer::to_node($parent.$field),
            )
        }
    };
}
pub(crate) use any_node;

/// The nodes in a field that is a list.
macro_rules! nodes {
    ($parent:ident . $field:ident) => {{
        let list: *mut pgrx::pg_sys::List = $parent.$field;
        // SAFETY: a field of a struct of the server's, which is a list, or NULL.
        unsafe { $crate::pg::statement::children($parent, list) }
    }};
}
pub(crate) use nodes;

/// The string in a field; `None` for NULL.
macro_rules! text {
    ($parent:ident . $field:ident) => {{
        let text: *mut std::ffi::c_char = $parent.$field;
        // SAFETY: a field of a struct of the server's, which is a NUL-terminated string, or NULL.
        unsafe { $crate::pg::statement::text_in($parent, text) }
    }};
}
pub(crate) use text;

/// The string in a field, empty for NULL; of bytes that are no UTF-8 with replacement characters.
macro_rules! string {
    ($parent:ident . $field:ident) => {
        $crate::pg::statement::text!($parent.$field)
            .map_or_else(String::new, |text| text.to_string_lossy().into_owned())
    };
}
pub(crate) use string;

/// The parts of the qualified name in a field.
macro_rules! names {
    ($parent:ident . $field:ident) => {
        $crate::pg::statement::strings(&$crate::pg::statement::nodes!($parent.$field))
    };
}
pub(crate) use names;

/// The text of those nodes that are strings.
pub fn strings(nodes: &[&pg_sys::Node]) -> Vec<String> {
    nodes.iter().copied().filter_map(string_of).collect()
}

/// The text of a node that is a string.
pub fn string_of(node: &pg_sys::Node) -> Option<String> {
    let node = cast::<pg_sys::String>(node)?;
    Some(string!(node.sval))
}

/// The parts of a qualified name that is a node by itself: a list of strings.
pub fn names_of(node: &pg_sys::Node) -> Vec<String> {
    if node.type_ != pg_sys::NodeTag::T_List {
        return Vec::new();
    }
    // SAFETY: the tag says that it is a list of nodes.
    let nodes = unsafe { list::items::<pg_sys::Node>(std::ptr::from_ref(node).cast_mut().cast()) };
    strings(&nodes)
}

/// The value of an option as text; `None` where it has none.
pub fn value_of(option: &pg_sys::DefElem) -> Option<&CStr> {
    if option.arg.is_null() {
        return None;
    }
    // SAFETY: every kind of node that an option can have gives a string, which lives as long as the statement.
    unsafe {
        text_in(
            option,
            pg_sys::defGetString(std::ptr::from_ref(option).cast_mut()),
        )
    }
}

/// The value of the option of this name in a list of options, as text.
pub fn option<'a>(options: &[&'a pg_sys::Node], name: &CStr) -> Option<&'a CStr> {
    options.iter().copied().find_map(|option| {
        let option = cast::<pg_sys::DefElem>(option)?;
        (text!(option.defname) == Some(name)).then(|| value_of(option))?
    })
}

/// The parts of an ALTER TABLE.
pub fn commands(alter: &pg_sys::AlterTableStmt) -> Vec<&pg_sys::AlterTableCmd> {
    nodes!(alter.cmds).into_iter().filter_map(cast).collect()
}

/// The lock that ALTER TABLE takes on its table.
pub fn lock_of(alter: &pg_sys::AlterTableStmt) -> i32 {
    // SAFETY: a statement of the server's, whose list has the parts that the server looks for.
    unsafe { pg_sys::AlterTableGetLockLevel(alter.cmds) as i32 }
}

/// Whether a statement on an object of this kind names a relation. It need not be of that kind: the server takes tables in
/// ALTER INDEX … RENAME, and all of them in ALTER TABLE.
pub const fn names_relation(kind: pg_sys::ObjectType::Type) -> bool {
    use pg_sys::ObjectType as Type;
    matches!(
        kind,
        Type::OBJECT_TABLE
            | Type::OBJECT_INDEX
            | Type::OBJECT_VIEW
            | Type::OBJECT_MATVIEW
            | Type::OBJECT_SEQUENCE
            | Type::OBJECT_FOREIGN_TABLE
    )
}

/// The roles that REASSIGN OWNED names; those that there are.
pub fn roles(reassign: &pg_sys::ReassignOwnedStmt) -> Vec<pg_sys::Oid> {
    nodes!(reassign.roles)
        .into_iter()
        .filter_map(cast::<pg_sys::RoleSpec>)
        // SAFETY: a node of the parse tree, which the lookup only reads; it may find nothing.
        .map(|role| unsafe { pg_sys::get_rolespec_oid(role, true) })
        .collect()
}

/// The tables that a CREATE TABLE inherits from, or is a partition of.
pub fn parents_of(create: &pg_sys::CreateStmt) -> Vec<&pg_sys::RangeVar> {
    nodes!(create.inhRelations)
        .into_iter()
        .filter_map(cast)
        .collect()
}

/// The constraints in the definition of a table, its columns' among them.
pub fn constraints_in(create: &pg_sys::CreateStmt) -> Vec<&pg_sys::Constraint> {
    let elements = nodes!(create.tableElts);
    let columns = elements
        .iter()
        .filter_map(|element| cast::<pg_sys::ColumnDef>(element))
        .flat_map(|column| nodes!(column.constraints));
    let all = columns.filter_map(cast);
    let own = elements.iter().filter_map(|element| cast(element));
    let listed = nodes!(create.constraints).into_iter().filter_map(cast);
    all.chain(own).chain(listed).collect()
}

/// The constraints that a command of ALTER TABLE adds, by itself or with a column.
pub fn constraints_of(command: &pg_sys::AlterTableCmd) -> Vec<&pg_sys::Constraint> {
    let added: Option<&pg_sys::Constraint> = node!(command.def);
    added.into_iter().chain(constraints(command)).collect()
}

/// What ATTACH PARTITION or DETACH PARTITION names.
pub fn partition(command: &pg_sys::AlterTableCmd) -> Option<&pg_sys::PartitionCmd> {
    node!(command.def)
}

/// The options that OPTIONS (…) of ALTER TABLE changes.
pub fn options(command: &pg_sys::AlterTableCmd) -> Vec<&pg_sys::Node> {
    let list = command.def.cast::<pg_sys::List>();
    // SAFETY: of a command of this kind the definition is a list, or NULL.
    match command.subtype == pg_sys::AlterTableType::AT_GenericOptions {
        true => unsafe { children(command, list) },
        false => Vec::new(),
    }
}

/// The constraints in the definition of a column that ADD COLUMN makes, its default and its identity among them.
pub fn constraints(command: &pg_sys::AlterTableCmd) -> Vec<&pg_sys::Constraint> {
    let column: Option<&pg_sys::ColumnDef> = node!(command.def);
    column.map_or_else(Vec::new, |column| {
        nodes!(column.constraints)
            .into_iter()
            .filter_map(cast)
            .collect()
    })
}

/// The tables of a CREATE STATISTICS.
pub fn statistics_of(create: &pg_sys::CreateStatsStmt) -> Vec<&pg_sys::RangeVar> {
    nodes!(create.relations)
        .into_iter()
        .filter_map(cast)
        .collect()
}

/// The function that an `ObjectWithArgs` names, as the server finds it; the invalid OID where there is none.
pub fn function_of(kind: pg_sys::ObjectType::Type, object: &pg_sys::ObjectWithArgs) -> pg_sys::Oid {
    // SAFETY: a node of the parse tree, which the lookup only reads; it may find nothing.
    unsafe { pg_sys::LookupFuncWithArgs(kind, std::ptr::from_ref(object).cast_mut(), true) }
}

/// The type that ALTER TYPE … of values names; the invalid OID where there is none.
pub fn enum_of(alter: &pg_sys::AlterEnumStmt) -> pg_sys::Oid {
    // SAFETY: the names are those of the parse tree, and are only read; the lookup may find nothing.
    unsafe {
        pg_sys::LookupTypeNameOid(
            std::ptr::null_mut(),
            pg_sys::makeTypeNameFromNameList(alter.typeName),
            true,
        )
    }
}

/// The range table of an analyzed query.
pub fn range_table(query: &pg_sys::Query) -> Vec<&pg_sys::RangeTblEntry> {
    // SAFETY: an analyzed query has a list of RangeTblEntry nodes there, which lives as long as it does.
    unsafe { list::items(query.rtable) }
}

/// What ALTER SYSTEM … RESET, or SET … TO DEFAULT, names; `None` for RESET ALL.
pub fn reset_by_system(alter: &pg_sys::AlterSystemStmt) -> Option<&CStr> {
    let set: &pg_sys::VariableSetStmt = node!(alter.setstmt)?;
    text!(set.name)
}

/// The name and the value of ALTER SYSTEM SET; `None` for its other forms.
pub fn set_by_system(alter: &pg_sys::AlterSystemStmt) -> Option<(&CStr, CString)> {
    let set: &pg_sys::VariableSetStmt = node!(alter.setstmt)?;
    if set.kind != pg_sys::VariableSetKind::VAR_SET_VALUE {
        return None;
    }
    let name = text!(set.name)?;
    // SAFETY: a node of the parse tree, which is only read; the value is NULL or NUL-terminated, and is copied.
    let value = unsafe {
        let value = pg_sys::ExtractSetVariableArgs(std::ptr::from_ref(set).cast_mut());
        match value.is_null() {
            true => CString::default(),
            false => CStr::from_ptr(value).to_owned(),
        }
    };
    Some((name, value))
}

/// A string is no node: this does not compile where one is, since `holds` is clear only where one of the two traits is meant.
const _: fn() = || {
    trait EitherWay<T> {
        fn holds() {}
    }
    struct Second;
    impl<T> EitherWay<()> for T {}
    impl<T: NodePointer> EitherWay<Second> for T {}
    <*mut c_char as EitherWay<_>>::holds();
    <*mut pg_sys::List as EitherWay<_>>::holds();
};
