//! `carve enter`: a command of a tenant's user, inside the tenant's control group, where its guests can be started.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use resources::User;
use resources::config::Name;
use vmm::guests::Folders;
use vmm::ledger::Tenancy;

use crate::cli::host::EnterArgs;

/// Variables that are as good inside as outside.
const KEPT: [&str; 4] = ["TERM", "LANG", "LC_ALL", "TZ"];

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("only root may put processes into the control group of a tenant; use sudo")]
    NotRoot,
    #[error(
        "no user books in a tenant {0}; give it one in the host file (tenant.{0}.user), and apply that"
    )]
    NoUser(Name),
    #[error("the user {user} of the tenant {tenant} is not in /etc/passwd")]
    Unknown { tenant: Name, user: String },
    #[error("cannot become {user}, which takes setpriv of util-linux")]
    Become { user: String, source: io::Error },
}

/// Becomes the command.
///
/// # Errors
///
/// This is not root, or there is no such tenant.
pub fn run(args: &EnterArgs) -> Result<ExitCode, super::Error> {
    let folders = Folders::of_user()?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot.into());
    }
    let tenant = &args.tenant;
    let tenancy = Tenancy::named(&folders, tenant)?.ok_or_else(|| Error::NoUser(tenant.clone()))?;
    let user = User::named(Path::new("/"), &tenancy.user)?
        .ok_or_else(|| Error::Unknown { tenant: tenant.clone(), user: tenancy.user.clone() })?;
    tenancy.begin_session(&user)?;
    let source = command(&user, &args.command).exec();
    Err(Error::Become { user: user.name, source }.into())
}

/// The user's login shell if none is named. Nothing of root's goes along but the terminal.
fn command(user: &User, words: &[OsString]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
    command.args(["--init-groups", "--inh-caps=-all", "--"]);
    match words {
        [] => command.arg(&user.shell).arg("-l"),
        words => command.args(words),
    };
    let kept = KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let kept: Vec<_> = kept.collect();
    command.env_clear().envs(kept);
    command.env("USER", &user.name).env("LOGNAME", &user.name);
    command.env("HOME", &user.home).env("SHELL", &user.shell);
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    command
}

#[cfg(test)]
mod enter_test {
    use super::*;

    #[test]
    fn a_command_is_its_users_in_every_way() {
        let user = User {
            name: "ada".into(),
            uid: 1001,
            gid: 1002,
            home: "/home/ada".into(),
            shell: "/bin/sh".into(),
        };
        let words = |command: Command| -> Vec<String> {
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
        };
        let shell = words(command(&user, &[]));
        assert_eq!(shell[..2], ["--reuid=1001", "--regid=1002"]);
        assert_eq!(shell[4..], ["--", "/bin/sh", "-l"]);
        let ps = command(&user, &["carve".into(), "ps".into()]);
        let home = ps.get_envs().find(|(name, _)| *name == "HOME").unwrap();
        assert_eq!(home.1, Some("/home/ada".as_ref()));
        assert_eq!(words(ps)[4..], ["--", "carve", "ps"]);
    }
}
