//! The text form of a value: what `value::text` gives in SQL.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::value::Value;

/// How values of one type become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextForm {
    type_oid: pg_sys::Oid,
    function: pg_sys::Oid,
    kind: Form,
    /// The result may depend on settings, such as DateStyle.
    pub by_settings: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// It is text already.
    Same,
    /// A cast function.
    Cast,
    /// The type's output function.
    Output,
}

impl TextForm {
    pub fn of(type_oid: pg_sys::Oid) -> TextForm {
        let mut function = pg_sys::Oid::INVALID;
        // SAFETY: catalog lookups by OID with valid out-pointers.
        let (base, path) = unsafe {
            let base = pg_sys::getBaseType(type_oid);
            let path = pg_sys::find_coercion_pathway(
                pg_sys::TEXTOID,
                base,
                pg_sys::CoercionContext::COERCION_EXPLICIT,
                &mut function,
            );
            (base, path)
        };
        let kind = match path {
            pg_sys::CoercionPathType::COERCION_PATH_FUNC => Form::Cast,
            pg_sys::CoercionPathType::COERCION_PATH_RELABELTYPE => Form::Same,
            _ if base == pg_sys::TEXTOID => Form::Same,
            _ => {
                let mut varlena = false;
                // SAFETY: valid out-pointers; every type has an output function.
                unsafe { pg_sys::getTypeOutputInfo(base, &mut function, &mut varlena) };
                Form::Output
            }
        };
        let fixed = [
            pg_sys::TEXTOID,
            pg_sys::VARCHAROID,
            pg_sys::BPCHAROID,
            pg_sys::NAMEOID,
            pg_sys::INT2OID,
            pg_sys::INT4OID,
            pg_sys::INT8OID,
            pg_sys::NUMERICOID,
            pg_sys::BOOLOID,
            pg_sys::UUIDOID,
            pg_sys::INETOID,
            pg_sys::CIDROID,
        ];
        TextForm {
            type_oid,
            function,
            kind,
            by_settings: !fixed.contains(&base),
        }
    }

    /// The text of a value, which must be of the type this was made for.
    pub fn text(self, value: Value) -> Result<String> {
        if !value.is_of(self.type_oid) {
            return Err(Error::internal(
                "a value of a row is of another type than was read before",
            ));
        }
        let value = value.datum();
        // SAFETY: the function takes a value of this type; results are palloc'd and NUL-terminated, copied at
        // once, and go with the memory context of the statement.
        unsafe {
            let text = match self.kind {
                Form::Output => pg_sys::OidOutputFunctionCall(self.function, value),
                Form::Same => pg_sys::text_to_cstring(value.cast_mut_ptr()),
                Form::Cast => pg_sys::text_to_cstring(
                    pg_sys::OidFunctionCall1Coll(
                        self.function,
                        pg_sys::DEFAULT_COLLATION_OID,
                        value,
                    )
                    .cast_mut_ptr(),
                ),
            };
            let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
            pg_sys::pfree(text.cast());
            Ok(copy)
        }
    }
}
