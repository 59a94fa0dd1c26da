//! Secrets in process arguments, masked before anything else sees them.
//!
//! Knows no process and no file: argument bytes in, the same bytes out with each secret as `****`. What is masked is
//! listed in `rules`; the manuals of the programs named there are the source. In doubt it masks too much.
//!
//! # What is masked
//!
//! **By name, in any program's arguments** (case, and `-`, `_` or `.`, make no difference):
//!
//! - `NAME=VALUE`, `--NAME=VALUE` and the argument after `--NAME`, where the name ends in `password`, `passwd`,
//!   `passphrase`, `secret`, `token`, `api-key`, `access-key`, `secret-key`, `account-key`, `master-key`, `-pass`,
//!   `-pwd`, `-psk` or `bearer`, or is `pass`, `psk`, `sshpass`, `proxyauth` and the like. So `PGPASSWORD=…`,
//!   `-e MYSQL_PWD=…`, `--http-password …`, `-o user=x,password=…`, `?token=…&…`, `;Pwd=…;`, `"password": "…"`.
//! - Names that end otherwise are kept: `--password-file`, `TOKEN_URL`, `SSH_ASKPASS`, `PasswordAuthentication`. The
//!   argument after a name is also kept if the name says that it takes none (`--ask-pass`, `--no-password`), and if
//!   it looks like an option itself (`-v`, `--verbose`).
//! - Header lines: `Authorization: …`, `Cookie: …`, `X-Api-Key: …`, `Private-Token: …` and any `…-Token: …`.
//!
//! **By shape**: the password in `scheme://user:password@host`; tokens of GitHub, GitLab, Slack, npm, PyPI, Stripe and
//! others that are known by their first letters; JSON web tokens. An Amazon secret key has no shape of its own.
//!
//! **By program**, wherever its name stands among the arguments, so also behind `sudo`, `env`, `timeout`, `xargs`:
//!
//! | program | masked |
//! |---|---|
//! | `sshpass` | `-p` (only its own: `ssh -p 22` behind it stays) |
//! | `plink`, `pscp`, `psftp`, `puttygen`, … | `-pw` |
//! | `ssh-keygen` | `-N`, `-P` |
//! | `mysql`, `mysqldump`, `mariadb`, … | `-pX`, `--password=X` |
//! | `psql`, `pg_dump`, … | `PGPASSWORD=`, `password=`; `--password` alone takes no value |
//! | `curl` | `-u`, `-U`, `-E` after the colon, `-x` before the `@`, `-b` after `=`, `--oauth2-bearer` |
//! | `http`, `https`, `xh` | `-a`, `--auth` after the colon |
//! | `ncat`, `proxytunnel` | `--proxy-auth`; `-P`, `-R` after the colon |
//! | `lftp` | `-u` after the comma |
//! | `smbclient`, `rpcclient`, `net`, … | `-U` after `%` |
//! | `mount` | `-o password=` |
//! | `ldapsearch`, `ldapmodify`, …, `ldappasswd` | `-w`; `-a`, `-s` |
//! | `openssl` | `-pass`, `-passin`, `-passout` after `pass:`, `-k`, `-K` |
//! | `keytool`, `jarsigner` | `-storepass`, `-keypass`, … |
//! | `redis-cli` | `-a`, `--pass` |
//! | `mongo`, `mongosh`, `mongodump`, `cqlsh`, `sqlcmd`, `bcp` | `-p`; `-P` |
//! | `docker`, `podman`, `helm`, `oc`, … | `login -p` |
//! | `vault`, `cargo` | `login` and what follows |
//! | `aws` | `aws_secret_access_key`, `aws_session_token` |
//! | `xfreerdp`, `rdesktop` | `/p:`, `-p` |
//! | `zip`, `unzip`; `7z`, `rar`, … | `-P`; `-pX`, `-hpX` |
//! | `htpasswd`, `mosquitto_passwd`, `wpa_passphrase` | `-b` and the last argument; the last argument |
//! | `nmcli` | `password X` |
//! | `ipmitool`, `mosquitto_pub`; `snmpget`, …; `twine` | `-P`; `-A`, `-X`, `-c`; `-p` |
//! | `hydra`, `medusa`, `nxc`, … | `-p`, `-H` |
//! | `useradd`, `usermod` | `-p` (a hash) |
//!
//! **In shell text**: an argument that holds white space is also read as words, quotes included, so
//! `sh -c "sshpass -p X ssh h"`, `ssh h "mysql -pX"` and `-o ProxyCommand="sshpass -p X …"` are masked inside.
//!
//! **By the user**: `--mask --pin` masks `--pin=X` and the argument after `--pin`; `--mask -k` masks `-kX` and the
//! argument after `-k`; `--mask NAME` masks `NAME=X`. Each for every program.
//!
//! A program's rules hold until the next known program, a shell separator (`;`, `|`, `&`, a new line), or, for a
//! program that runs another (`sshpass`, `sudo`, `sh`), until its first word that is no option.
//!
//! # What is not
//!
//! Passwords that stand alone (`smbclient //host/share PASSWORD`), in code (`python -c …`), or behind a program that
//! nobody told us of. And since a process chooses its arguments, it can hide one by dressing it up as a password: the
//! record counts what was masked.

mod commands;
mod quoting;
mod rules;
mod shapes;
#[cfg(test)]
mod tests;

use rules::{PROGRAMS, Program};
use std::ops::Range;

/// What stands in a secret's place.
const MASK: &[u8] = b"****";

/// What masks arguments: the built-in rules and the names that the user added.
#[derive(Debug, Clone)]
pub struct Masker {
    /// Sorted by name, for a binary search at every word.
    programs: Vec<(&'static str, &'static Program)>,
    /// Added by the user, with their dashes: `--pin`, `-k`.
    options: Vec<String>,
    /// Added by the user, without dashes and `=`: `pin`, `NAME`.
    names: Vec<String>,
}

impl Masker {
    /// A masker that knows the built-in rules and `extra`: options (`--pin`) and variables (`NAME` or `NAME=`).
    pub fn new(extra: &[String]) -> Masker {
        let mut programs: Vec<_> =
            PROGRAMS.iter().flat_map(|p| p.names.split(' ').map(move |n| (n, p))).collect();
        programs.sort_unstable_by_key(|(name, _)| *name);
        let extra = extra.iter().map(|name| name.trim_end_matches('='));
        // A bare "-" would name every option's value.
        let extra = extra.filter(|name| !name.trim_start_matches('-').is_empty());
        let short = |name: &&str| name.len() == 2 && name.starts_with('-');
        let names =
            extra.clone().filter(|name| !short(name)).map(|name| name.trim_start_matches('-').to_owned());
        let names = names.collect();
        let options = extra.filter(|name| name.starts_with('-')).map(str::to_owned).collect();
        Masker { programs, options, names }
    }

    /// Masks in place, answers how many secrets were masked. Each secret becomes `****`.
    ///
    /// Time grows with the bytes; allocates only where something is masked.
    pub fn mask(&self, args: &mut [Vec<u8>]) -> u32 {
        let mut reader = commands::Reader::new(self, args.first().map_or(&[], Vec::as_slice));
        let mut count = 0;
        for arg in args {
            let mut marks = Marks::of(arg);
            reader.read(arg, &mut marks);
            count += marks.apply(arg);
        }
        count
    }

    fn program(&self, name: &[u8]) -> Option<&'static Program> {
        let found = self.programs.binary_search_by(|(known, _)| known.as_bytes().cmp(name));
        found.ok().and_then(|at| self.programs.get(at)).map(|(_, program)| *program)
    }
}

/// The built-in rules by program, as (program, option); an empty option stands for the program's operands.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    PROGRAMS.iter().flat_map(|program| {
        let options = program.rules.iter().flat_map(|(options, _)| options.split(' '));
        options.flat_map(|option| program.names.split(' ').map(move |name| (name, option)))
    })
}

/// The secrets found in one argument.
struct Marks {
    /// Address of the argument's first byte. The finders work on parts of the argument; a part's own address tells
    /// where it lies, so that no finder has to carry offsets.
    base: usize,
    found: Vec<Range<usize>>,
}

impl Marks {
    fn of(arg: &[u8]) -> Marks {
        Marks { base: arg.as_ptr().addr(), found: Vec::new() }
    }

    /// Marks a part of the argument as secret, but not the quotes around it.
    fn add(&mut self, secret: &[u8]) {
        let secret = quoting::unwrap(secret);
        if !secret.is_empty() && secret != MASK {
            self.found.push(self.range(secret));
        }
    }

    /// Whether a part of the argument begins in what is marked.
    fn cover(&self, part: &[u8]) -> bool {
        let Range { start, .. } = self.range(part);
        self.found.iter().any(|mark| mark.contains(&start))
    }

    fn range(&self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr().addr().saturating_sub(self.base);
        start..start + part.len()
    }

    /// Writes the mask over what was marked, once where marks overlap or touch. Answers how many times.
    fn apply(mut self, arg: &mut Vec<u8>) -> u32 {
        if self.found.is_empty() {
            return 0;
        }
        self.found.sort_unstable_by_key(|mark| mark.start);
        let mut masked = Vec::with_capacity(arg.len() + MASK.len());
        let (mut count, mut done) = (0, 0);
        for Range { start, end } in self.found {
            if count == 0 || start > done {
                masked.extend_from_slice(arg.get(done..start).unwrap_or_default());
                masked.extend_from_slice(MASK);
                count += 1;
            }
            done = done.max(end);
        }
        masked.extend_from_slice(arg.get(done..).unwrap_or_default());
        *arg = masked;
        count
    }
}
