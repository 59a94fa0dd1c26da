//! The rules as tables. To teach a program, add a line to `PROGRAMS` and one to the list in the module's page.

use Value::{After, Beyond, Command, Host, Joined, Login, Plain, Rest, Script, Whole};

/// What follows an option, or, for the option `""`, what the program's operands are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// A secret, joined to the option or in the next word.
    Whole,
    /// A secret where it is joined to the option (`-pX`, `--password=X`); the next word is something else.
    Joined,
    /// A secret: all that follows these bytes of the word. No getopt, so no other way to write it.
    Rest,
    /// Like `Whole`, but only what follows the given text is secret.
    After(&'static str),
    /// Like `Whole`, but only the password of `user:password@host` is secret.
    Login,
    /// Shell text.
    Script,
    /// Operands: the first one begins another command, the program's own options end there.
    Command,
    /// Operands: the first one is a host or a login, what follows is a command in shell text.
    Host,
    /// Operands: names, which may be those of programs and are none.
    Plain,
    /// Operands: those beyond the first so many are secret.
    Beyond(u8),
}

/// What one program, or several that agree, take on their command line.
#[derive(Debug)]
pub(super) struct Program {
    pub names: &'static str,
    /// Sub-command from which the rules hold; empty if from the start.
    pub after: &'static str,
    /// Further short options that take a value. Empty: the program does not bundle short options.
    pub takes: &'static str,
    pub rules: &'static [(&'static str, Value)],
}

impl Program {
    const fn after(self, after: &'static str) -> Program {
        Program { after, ..self }
    }

    /// What the program's operands are, where that matters.
    pub(super) fn operands(&self) -> Option<Value> {
        self.rules.iter().find(|(option, _)| option.is_empty()).map(|(_, value)| *value)
    }
}

const fn program(
    names: &'static str,
    takes: &'static str,
    rules: &'static [(&'static str, Value)],
) -> Program {
    Program { names, after: "", takes, rules }
}

/// Names, short options that take other values (as `getopt` would parse them), then the rules.
pub(super) static PROGRAMS: &[Program] = &[
    // Programs that run others: where their own options end, and where shell text stands.
    program("sshpass", "dfP", &[("-p", Whole), ("", Command)]),
    program("sudo", "CDghpRrTtUu", &[("", Command)]),
    program("doas", "Cu", &[("", Command)]),
    program("ssh slogin autossh", "BbcDEeFIiJLlmOoPpQRSWw", &[("", Host)]),
    program("su runuser sg", "sgGTuw", &[("-c --command --session-command", Script), ("", Host)]),
    program("sh bash dash zsh ksh mksh ash fish csh tcsh", "oO", &[("-c", Script), ("", Command)]),
    program("script", "BEImOoT", &[("-c --command", Script)]),
    // The SSH family. scp and sftp are here for what their options take, not for a secret.
    program("scp sftp", "BbcDFiJloPRSsX", &[("", Plain)]),
    program("plink pscp psftp putty pterm puttygen", "", &[("-pw", Whole)]),
    program("ssh-keygen", "abCDEFfGIiJjKLlMmnOoRrSsTtVWYz", &[("-N -P", Whole)]),
    program("ncat", "", &[("--proxy-auth", After(":"))]),
    program("proxytunnel", "cdFpr", &[("-P --proxyauth -R --remproxyauth", After(":"))]),
    program("hydra medusa ncrack", "CeFfLlMmNnoPRSsTtUuWwx", &[("-p", Whole), ("", Plain)]),
    program("nxc netexec crackmapexec cme evil-winrm", "dikMotuxX", &[("-p -H", Whole), ("", Plain)]),
    // Web and files.
    program(
        "curl",
        "ACcDdeFHhKmoPQrTtwXYyz",
        &[
            ("-u --user -U --proxy-user -E --cert", After(":")),
            ("-b --cookie", After("=")),
            ("-x --proxy --preproxy --socks5 --socks5-hostname", Login),
            ("--oauth2-bearer", Whole),
        ],
    ),
    program("http https xh xhs", "Aop", &[("-a --auth", After(":"))]),
    program("lftp open", "ecfp", &[("-u --user", After(","))]),
    program("smbclient rpcclient net smbget smbcacls winexe", "IiLmnOopRsTtW", &[("-U --user", After("%"))]),
    program("zip", "bntTUxisO", &[("-P", Whole)]),
    program("unzip zipinfo", "dx", &[("-P", Whole)]),
    program("7z 7za 7zr 7zz rar unrar", "", &[("-hp -p", Rest)]),
    program(
        "xfreerdp xfreerdp3 wlfreerdp wlfreerdp3 sdl-freerdp",
        "",
        &[("/p: /pass: /password: /gp:", Rest)],
    ),
    program("rdesktop", "acdDegklmnoPrsStTuxX", &[("-p", Whole)]),
    // Databases and directories.
    program(
        "mysql mysqldump mysqladmin mysqlimport mysqlshow mysqlcheck mysqlslap mysqlbinlog mysqlpump \
         mariadb mariadb-dump mariadb-admin mariadb-import mariadb-show mariadb-check mariadb-slap mariadb-binlog",
        "DehiOPrSTuw",
        &[("-p --password", Joined)],
    ),
    program(
        "psql pg_dump pg_dumpall pg_restore pg_basebackup createdb dropdb createuser dropuser vacuumdb reindexdb",
        "cdfhLopPRTtUv",
        &[("--password", Joined)],
    ),
    program("redis-cli valkey-cli", "", &[("-a --pass", Whole)]),
    program(
        "mongo mongosh mongodump mongorestore mongoexport mongoimport mongostat",
        "cdfhoqu",
        &[("-p", Whole)],
    ),
    program("cqlsh", "ekut", &[("-p", Whole)]),
    program("sqlcmd bcp", "aCcdEFfhiKlmoQqrSstUvwXy", &[("-P", Whole)]),
    program(
        "ldapsearch ldapmodify ldapadd ldapdelete ldapcompare ldapwhoami ldapmodrdn ldapexop",
        "abDdEeFfHhIlOoPpRSsTtUXYyz",
        &[("-w", Whole)],
    ),
    program("ldappasswd", "DdEeHhOoPpRSTtUXYy", &[("-w -a -s", Whole)]),
    // Keys and services.
    program("openssl", "", &[("-pass -passin -passout", After("pass:")), ("-k -K", Whole)]),
    program(
        "keytool jarsigner",
        "",
        &[("-storepass -keypass -srcstorepass -deststorepass -srckeypass -destkeypass -new", Whole)],
    ),
    program("docker podman nerdctl buildah skopeo helm oc az cf", "u", &[("-p", Whole)]).after("login"),
    program("vault cargo", "", &[("", Beyond(0))]).after("login"),
    program("aws", "", &[("aws_secret_access_key aws_session_token", Whole)]),
    program("twine", "ciru", &[("-p", Whole)]),
    program("mosquitto_pub mosquitto_sub mosquitto_rr", "AfhIiklLmpqtuV", &[("-P", Whole)]),
    program("mosquitto_passwd", "H", &[("-b", Beyond(2))]),
    program("htpasswd", "Cr", &[("-n", Beyond(1)), ("-b", Beyond(2))]),
    program("wpa_passphrase", "", &[("", Beyond(1))]),
    program("nmcli", "", &[("password wifi-sec.psk 802-11-wireless-security.psk", Whole)]),
    program("ipmitool", "ACdefHhIkLlNOopRSTtUYy", &[("-P", Whole)]),
    program(
        "snmpget snmpgetnext snmpwalk snmpbulkwalk snmpset snmptrap",
        "aCDeElLmMnOrtuvxZz",
        &[("-A -X -c", Whole)],
    ),
    program("useradd usermod", "bcdefgGklsRPuZ", &[("-p", Whole)]),
];

/// A name is secret that ends so, `_` and `.` counting as `-`.
pub(super) const ENDINGS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api-key",
    "apikey",
    "access-key",
    "accesskey",
    "secret-key",
    "secretkey",
    "account-key",
    "accountkey",
    "master-key",
    "bearer",
    "-pass",
    "-pwd",
    "-psk",
];

/// Further secret names. `pwd` is one only in a list: PWD alone is the working directory.
pub(super) const NAMES: &[&str] = &[
    "pass",
    "psk",
    "sig",
    "sshpass",
    "storepass",
    "keypass",
    "proxyauth",
    "rediscli-auth",
    "x-amz-signature",
];

/// An option whose name begins so takes no secret, whatever its ending.
pub(super) const FLAGS: &[&str] = &[
    "no-",
    "ask-",
    "prompt-",
    "with-",
    "without-",
    "use-",
    "show-",
    "read-",
    "reset-",
    "change-",
    "require-",
    "generate-",
    "skip-",
    "save-",
];

/// Header names whose value is secret even if no blank follows the colon. Others need the blank, since
/// `scp token:file .` names a host.
pub(super) const HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-auth-key",
    "x-auth-token",
    "x-vault-token",
    "private-token",
    "job-token",
    "deploy-token",
];

/// What tokens begin with, and how long they are at least.
pub(super) const TOKENS: &[(&str, usize)] = &[
    ("ghp_", 40),
    ("gho_", 40),
    ("ghu_", 40),
    ("ghs_", 40),
    ("ghr_", 40),
    ("github_pat_", 40),
    ("glpat-", 26),
    ("gldt-", 25),
    ("glrt-", 25),
    ("glcbt-", 26),
    ("glptt-", 26),
    ("xoxb-", 24),
    ("xoxp-", 24),
    ("xoxa-", 24),
    ("xoxr-", 24),
    ("xoxs-", 24),
    ("xapp-", 24),
    ("npm_", 40),
    ("pypi-", 40),
    ("hf_", 30),
    ("sk-", 40),
    ("sk_live_", 24),
    ("rk_live_", 24),
    ("dckr_pat_", 30),
    ("dop_v1_", 40),
    ("shpat_", 38),
    ("hvs.", 28),
    ("AIza", 39),
    ("ya29.", 40),
    ("SG.", 60),
];
