//! Arguments of SQL functions. A function with an optional argument is called also when others are NULL, and
//! one without would silently do nothing: so every argument arrives as an `Option`, and is asked for here.

use crate::error::{Error, Kind, Result};

/// The argument's value; NULL is an error that names it.
pub fn required<T>(name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| {
        Error::new(
            Kind::InvalidParameter,
            format!("argument \"{name}\" may not be null"),
        )
    })
}

/// A text argument without surrounding white space; NULL and nothing but white space are errors.
pub fn words(name: &str, value: Option<String>) -> Result<String> {
    let value = required(name, value)?;
    let value = value.trim();
    if value.is_empty() {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("argument \"{name}\" may not be empty"),
        ));
    }
    Ok(value.to_owned())
}

/// An array argument whose elements may not be NULL.
pub fn elements(name: &str, value: Vec<Option<String>>) -> Result<Vec<String>> {
    value
        .into_iter()
        .map(|element| {
            element.ok_or_else(|| {
                Error::new(
                    Kind::InvalidParameter,
                    format!("argument \"{name}\" may not contain nulls"),
                )
            })
        })
        .collect()
}
