//! The client's connection: where it comes from, which role asked, and which certificate it showed.

use std::ffi::{CStr, CString, c_char};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pgrx::pg_sys;
use pgrx::pg_sys::libpq::be;
use serde::{Deserialize, Serialize};

use crate::pg::parallel;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remote {
    Socket,
    Ip(IpAddr),
    Unknown,
}

/// What is known about a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub remote: Remote,
    /// The role of the startup packet.
    pub role: String,
    /// The database of the startup packet; `None` for physical replication.
    pub database: Option<String>,
    /// Of the verified certificate, as `pg_stat_ssl.issuer_dn` and `client_dn` show it.
    pub issuer: Option<String>,
    pub subject: Option<String>,
    /// Whether what is sent can be read on its way: not over a unix socket, nor where it is encrypted.
    pub plaintext: bool,
}

fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not NULL; the server's strings are NUL-terminated.
    let text = unsafe { CStr::from_ptr(pointer) }.to_string_lossy();
    (!text.is_empty()).then(|| text.into_owned())
}

fn remote(address: &pg_sys::SockAddr) -> Remote {
    let storage = std::ptr::from_ref(&address.addr);
    // SAFETY: a sockaddr_storage is large enough and aligned for each family; the family says which it holds.
    unsafe {
        match i32::from((*storage.cast::<libc::sockaddr>()).sa_family) {
            libc::AF_UNIX => Remote::Socket,
            libc::AF_INET => {
                let v4 = &*storage.cast::<libc::sockaddr_in>();
                Remote::Ip(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let v6 = &*storage.cast::<libc::sockaddr_in6>();
                Remote::Ip(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => Remote::Unknown,
        }
    }
}

/// The server's function that names a part of the client's certificate. A server without TLS has none, so it
/// is looked up rather than linked.
fn certificate(port: *mut be::Port, function: &CStr) -> Option<String> {
    type Name = unsafe extern "C-unwind" fn(*mut be::Port, *mut c_char, usize);
    let mut buffer = [0 as c_char; 1024];
    // SAFETY: the functions looked up here have this signature in versions 15 to 18, write at most the length
    // given, terminate with NUL, and write an empty string where there is no certificate. The server verifies
    // every certificate that it accepts, so one that can be named was signed by an authority it trusts.
    unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, function.as_ptr());
        if symbol.is_null() {
            return None;
        }
        let name = std::mem::transmute::<*mut libc::c_void, Name>(symbol);
        name(port, buffer.as_mut_ptr(), buffer.len());
        // A name that fills the buffer was cut, and a cut name could be taken for another one.
        if libc::strlen(buffer.as_ptr()) >= buffer.len() - 1 {
            return None;
        }
    }
    text(buffer.as_ptr())
}

/// Whether the connection is encrypted, by TLS or GSSAPI.
fn encrypted(port: *mut be::Port) -> bool {
    type Version = unsafe extern "C-unwind" fn(*mut be::Port) -> *const c_char;
    type Encrypted = unsafe extern "C-unwind" fn(*mut be::Port) -> bool;
    // SAFETY: the functions looked up here have these signatures in versions 15 to 18; they answer NULL and false for a
    // connection without TLS and GSSAPI. A server built without one of them has no such function.
    unsafe {
        let tls = libc::dlsym(libc::RTLD_DEFAULT, c"be_tls_get_version".as_ptr());
        if !tls.is_null() {
            let version = std::mem::transmute::<*mut libc::c_void, Version>(tls);
            if !version(port).is_null() {
                return true;
            }
        }
        let gss = libc::dlsym(libc::RTLD_DEFAULT, c"be_gssapi_get_enc".as_ptr());
        if gss.is_null() {
            return false;
        }
        let encrypted = std::mem::transmute::<*mut libc::c_void, Encrypted>(gss);
        encrypted(port)
    }
}

impl Client {
    /// A client of which nothing is known.
    fn unknown() -> Client {
        Client {
            remote: Remote::Unknown,
            role: String::new(),
            database: None,
            issuer: None,
            subject: None,
            plaintext: true,
        }
    }
}

/// The client of this backend, once its startup packet was read; of a parallel worker, that of its leader. `None` for
/// processes of the server itself.
pub fn client() -> Option<Client> {
    if !parallel::is_worker() {
        return own();
    }
    match parallel::handed_over() {
        Some(text) => Some(serde_json::from_str(&text).unwrap_or_else(|_| Client::unknown())),
        None if parallel::leader_has_no_client() => None,
        None => Some(Client::unknown()),
    }
}

/// Keeps the client of this backend for its parallel workers. At login.
pub fn hand_to_workers() {
    let text = own().and_then(|client| serde_json::to_string(&client).ok());
    // Without it the workers know nothing of the client.
    if let Some(text) = text.and_then(|text| CString::new(text).ok()) {
        parallel::hand_over(&text);
    }
}

/// The client at the other end of this process's own connection.
fn own() -> Option<Client> {
    // SAFETY: MyProcPort is NULL or the port of this process.
    let port: *mut be::Port = unsafe { pg_sys::MyProcPort }.cast();
    // SAFETY: as above; the fields read are the leading ones, whose layout is the same in each version.
    let fields = unsafe { port.as_ref() }?;
    let remote = remote(&fields.raddr);
    Some(Client {
        plaintext: remote != Remote::Socket && !encrypted(port),
        remote,
        role: text(fields.user_name).unwrap_or_default(),
        database: text(fields.database_name),
        issuer: certificate(port, c"be_tls_get_peer_issuer_name"),
        subject: certificate(port, c"be_tls_get_peer_subject_name"),
    })
}

/// Whether this process serves replication.
pub fn is_walsender() -> bool {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::am_walsender }
}
