//! What of `lxccontainer.h` and `attach_options.h` is used, in liblxc's own layout. Bindings that are generated when adt is built
//! would ask everybody who builds it for clang, liblxc's headers and a minute; these are ten fields of an interface that is only
//! ever extended at its end. A test holds them to the headers.

use std::ffi::{c_char, c_int, c_long, c_void};

/// A function of the object that adt does not call.
type Other = *const c_void;
type Ask = unsafe extern "C" fn(*mut Container) -> bool;
type Tell = unsafe extern "C" fn(*mut Container, bool) -> bool;
pub type Enter = unsafe extern "C" fn(*mut c_void) -> c_int;

/// `struct lxc_container`, which liblxc makes, as far as `attach`: more follows. Named like its fields.
#[repr(C)]
pub struct Container {
    name: *mut c_char,
    configfile: *mut c_char,
    pidfile: *mut c_char,
    locks: [*mut c_void; 2],
    numthreads: c_int,
    lxc_conf: *mut c_void,
    pub error_string: *mut c_char,
    error_num: c_int,
    daemonize: bool,
    config_path: *mut c_char,
    defined_and_state: [Other; 2],
    pub is_running: Option<Ask>,
    freeze_to_init_pid: [Other; 3],
    pub load_config: Option<unsafe extern "C" fn(*mut Self, *const c_char) -> bool>,
    pub start: Option<unsafe extern "C" fn(*mut Self, c_int, *const *mut c_char) -> bool>,
    startl_and_stop: [Other; 2],
    pub want_daemonize: Option<Tell>,
    pub want_close_all_fds: Option<Tell>,
    config_file_name_to_clone: [Other; 22],
    pub console_getfd: Option<unsafe extern "C" fn(*mut Self, *mut c_int, *mut c_int) -> c_int>,
    console: Other,
    pub attach:
        Option<unsafe extern "C" fn(*mut Self, Option<Enter>, *mut c_void, *mut AttachOptions, *mut libc::pid_t) -> c_int>,
}

pub const ATTACH_DEFAULT: c_int = 0x0000_FFFF;
pub const ATTACH_CLEAR_ENV: c_int = 1;

/// `lxc_attach_options_t`, which the caller makes.
#[repr(C)]
pub struct AttachOptions {
    pub attach_flags: c_int,
    pub namespaces: c_int,
    pub personality: c_long,
    initial_cwd: *mut c_char,
    pub uid: libc::uid_t,
    pub gid: libc::gid_t,
    pub env_policy: c_int,
    extra_env_vars: *mut *mut c_char,
    extra_keep_env: *mut *mut c_char,
    pub stdin_fd: c_int,
    pub stdout_fd: c_int,
    pub stderr_fd: c_int,
    pub log_fd: c_int,
    lsm_label: *mut c_char,
    /// How many, and where.
    groups: [usize; 2],
    /// A later liblxc may know more options than these, and reads that they are not set.
    later: [usize; 16],
}

impl AttachOptions {
    /// All zeros: no option is set.
    pub fn empty() -> Self {
        // SAFETY: integers and pointers only, for which zero and null are valid.
        unsafe { std::mem::zeroed() }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;
    use std::process::Command;

    use super::*;

    /// The compiler is asked about the headers that are installed here; those of another version have the same beginning.
    #[test]
    fn the_layout_is_that_of_the_headers() {
        let mut checks = Vec::new();
        macro_rules! fields {
            ($ours:ty as $theirs:literal: $($name:ident)*) => {
                $(checks.push(format!(concat!("offsetof(", $theirs, ", ", stringify!($name), ") == {}"), offset_of!($ours, $name)));)*
            };
        }
        fields!(Container as "struct lxc_container": name configfile pidfile numthreads lxc_conf error_string error_num daemonize
            config_path is_running load_config start want_daemonize want_close_all_fds console_getfd console attach);
        fields!(AttachOptions as "lxc_attach_options_t": attach_flags namespaces personality initial_cwd uid gid env_policy
            extra_env_vars extra_keep_env stdin_fd stdout_fd stderr_fd log_fd lsm_label groups);
        checks.push(format!("sizeof(lxc_attach_options_t) <= {}", size_of::<AttachOptions>()));
        checks.push(format!("LXC_ATTACH_DEFAULT == {ATTACH_DEFAULT}"));
        checks.push(format!("LXC_ATTACH_CLEAR_ENV == {ATTACH_CLEAR_ENV}"));
        let mut source = String::from("#include <stddef.h>\n#include <lxc/lxccontainer.h>\n");
        for check in &checks {
            source.push_str(&format!("_Static_assert({check}, \"as in abi.rs\");\n"));
        }
        // A signature that differs is a warning about the pointer, here an error.
        source.push_str(
            "bool (*is_running)(struct lxc_container *) = (__typeof__(((struct lxc_container *)0)->is_running))0;\n\
             bool (*load_config)(struct lxc_container *, const char *) = (__typeof__(((struct lxc_container *)0)->load_config))0;\n\
             bool (*start)(struct lxc_container *, int, char *const []) = (__typeof__(((struct lxc_container *)0)->start))0;\n\
             bool (*tell)(struct lxc_container *, bool) = (__typeof__(((struct lxc_container *)0)->want_daemonize))0;\n\
             bool (*close)(struct lxc_container *, bool) = (__typeof__(((struct lxc_container *)0)->want_close_all_fds))0;\n\
             int (*getfd)(struct lxc_container *, int *, int *) = (__typeof__(((struct lxc_container *)0)->console_getfd))0;\n\
             int (*attach)(struct lxc_container *, int (*)(void *), void *, lxc_attach_options_t *, pid_t *) =\n\
             \t(__typeof__(((struct lxc_container *)0)->attach))0;\n",
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("layout.c");
        std::fs::write(&file, source).unwrap();
        let compiled = Command::new("cc").args(["-std=gnu11", "-Werror", "-fsyntax-only"]).arg(&file).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    }
}
