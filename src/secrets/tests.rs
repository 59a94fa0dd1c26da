//! Real command lines, then generated ones. A table line is an argument list as `ps` shows it: a space parts two
//! arguments, `·` is a space within one, `↵` a new line within one.

use super::rules::{PROGRAMS, Value};
use super::{MASK, Masker};
use proptest::prelude::*;

fn arguments(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|arg| arg.replace('·', " ").replace('↵', "\n").into_bytes()).collect()
}

fn line(args: &[Vec<u8>]) -> String {
    args.iter().map(|arg| text(arg)).collect::<Vec<_>>().join(" ")
}

fn text(arg: &[u8]) -> String {
    String::from_utf8_lossy(arg).replace(' ', "·").replace('\n', "↵")
}

#[track_caller]
fn check(masker: &Masker, table: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (given, expected) in table {
        let mut args = arguments(given);
        let count = masker.mask(&mut args);
        let masks = expected.matches("****").count();
        if line(&args) != *expected || usize::try_from(count) != Ok(masks) || !is_stable(&args) {
            wrong += &format!(
                "\n   given {given}\nexpected {masks} {expected}\n     got {count} {}\n",
                line(&args)
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Whether masking `args` again changes nothing.
fn is_stable(args: &[Vec<u8>]) -> bool {
    let mut again = args.to_vec();
    builtin().mask(&mut again) == 0 && again == args
}

fn builtin() -> Masker {
    Masker::new(&[])
}

const HARMLESS: &[&str] = &[
    "ssh -p 22 git.example.net",
    "ssh -p22 -l alice git.example.net",
    "ssh user@host",
    "ssh ssh://u@[::1]:22",
    "ssh -o PasswordAuthentication=no -o NumberOfPasswordPrompts=1 -oPreferredAuthentications=password host",
    "ssh -J jump.example.net:2222 -L 8080:[::1]:80 host",
    "ssh -i mysql -p 2222 host",
    "ssh mysql -p 2222 uptime",
    "ssh mysql -p2222 uptime",
    "ssh token -p 22",
    "ssh host git-upload-pack·'team/secret.git'",
    "ssh -W [2001:db8::7]:22 jump",
    "-bash",
    "/usr/sbin/sshd -D [listener]·0·of·10-100·startups",
    "sshd:·alice·[priv]",
    "ssh:·/home/alice/.ssh/cm-alice@host:22·[mux]",
    "scp -p -P 2222 file host:/tmp/",
    "scp -P 22 token:secret.txt .",
    "scp secret:/srv/a secret:",
    "sftp -b batch -P 22 host",
    "sshpass -e ssh -p 22 host",
    "sshpass -f /root/pw ssh -p 22 host",
    "sshpass -d 3 ssh host",
    "sshpass -P assword -f pw ssh host",
    "rsync -e ssh·-p·22 -a src/ host:dst/",
    "rsync --password-file=/x rsync://user@host/m",
    "rsync -a -p mysql host:",
    "tar --pass-through -cf - .",
    "git push origin main",
    "git clone git@example.net:token/secret.git",
    "git -c credential.helper=store fetch",
    "ls -la",
    "passwd alice",
    "curl https://example.org",
    "curl -su alice https://example.org",
    "curl -o users.json -Xu https://example.org:8443/a",
    "curl -b cookies.txt -H Accept:·text/html https://example.org/?q=password",
    "wget --no-check-certificate http://[::1]:8080/a@b",
    "wget https://example.org:443/pkg@1.2.tar.gz",
    "pip install git+ssh://git@example.net:team/repo@v1",
    "mysql -p -h db app",
    "mysql --password -h db app",
    "mysql -uroot -Dspare -P3306",
    "psql --password -h db app",
    "psql -W -h db -p 5432 app",
    "pg_dump --no-password -h db app",
    "ansible-playbook --ask-pass --ask-become-pass site.yml",
    "ansible-playbook --ask-pass host",
    "docker run -p 8080:80 --name mysql nginx",
    "docker login --password-stdin -u alice registry.example.net",
    "openssl rsa -passin env:PW -passout file:/x -in key.pem",
    "openssl req -newkey rsa:2048 -keyout key.pem -nodes",
    "ldapsearch -x -W -y /etc/pw -H ldap://h",
    "kubectl create secret generic db",
    "env PWD=/home/alice OLDPWD=/ SSH_ASKPASS=/usr/bin/ask PGPASSFILE=/x TOKEN_URL=https://h/t ssh h",
    "tool --password= --token --verbose host",
    "tool --compass=north --bypass host --tokens 5 --secretary bob",
    "ffmpeg -passlogfile x -i a b",
    "sudo -p prompt -u mysql -g www id",
    "sudo -u postgres -p x ssh host",
    "htpasswd -c .htpasswd alice",
    "gpg --passphrase-fd 0 --passphrase-file /x -d f",
    "redis-cli -h db ping",
    "zip -r out.zip dir",
    "7z a -p out.7z dir",
    "sh -c echo·don't·panic",
    "sh -c ssh·-p·22·host;·cp·-p·a·b",
    "sh -c sshpass·-e·ssh·-p·22·host·|·tee·-p·log",
    "sh -c [·-n·\"$PASSWORD\"·]·&&·echo·${PASSWORD:-none}",
    "ssh host sudo·-u·mysql·-p·x·ls·-p",
    "ssh host cd·/srv·&&·tar·czf·-·.",
    "ghp_short eyJhbGciOiJIUzI1NiJ9 npm_install sk-learn glpat-",
];

#[test]
fn what_holds_no_secret_stays_as_it_is() {
    let table: Vec<_> = HARMLESS.iter().map(|line| (*line, *line)).collect();
    check(&builtin(), &table);
}

const BY_PROGRAM: &[(&str, &str)] = &[
    ("sshpass -p s3cret ssh -p 22 host", "sshpass -p **** ssh -p 22 host"),
    ("sshpass -ps3cret ssh -p22 host", "sshpass -p**** ssh -p22 host"),
    ("sshpass -vp s3cret scp -p a h:", "sshpass -vp **** scp -p a h:"),
    ("sshpass -P assword: -p my·pass ssh h", "sshpass -P assword: -p **** ssh h"),
    ("sshpass -p --hunter2 ssh h", "sshpass -p **** ssh h"),
    ("sshpass -p mysql ssh -psecret h", "sshpass -p **** ssh -psecret h"),
    ("sshpass -p s autossh -M 0 -p 22 h", "sshpass -p **** autossh -M 0 -p 22 h"),
    ("sshpass -p s rsync -p -e ssh·-p·22 a h:", "sshpass -p **** rsync -p -e ssh·-p·22 a h:"),
    ("sudo -u root sshpass -p s ssh h", "sudo -u root sshpass -p **** ssh h"),
    (
        "timeout 10 nice -n 5 /usr/bin/sshpass -p s ssh h",
        "timeout 10 nice -n 5 /usr/bin/sshpass -p **** ssh h",
    ),
    ("xargs -n1 sshpass -p s ssh", "xargs -n1 sshpass -p **** ssh"),
    (
        "strace -f -o out setsid nohup sshpass -p s ssh h",
        "strace -f -o out setsid nohup sshpass -p **** ssh h",
    ),
    ("plink -batch -pw s3cret -P 22 alice@h", "plink -batch -pw **** -P 22 alice@h"),
    ("/mnt/c/putty/plink.exe -pw s3cret h", "/mnt/c/putty/plink.exe -pw **** h"),
    ("pscp -pw s3cret a h:", "pscp -pw **** a h:"),
    ("ssh-keygen -t ed25519 -N s3cret -f key", "ssh-keygen -t ed25519 -N **** -f key"),
    ("ssh-keygen -p -P old -N new -f key", "ssh-keygen -p -P **** -N **** -f key"),
    ("hydra -l root -p toor ssh://10.0.0.1", "hydra -l root -p **** ssh://10.0.0.1"),
    ("nxc ssh 10.0.0.1 -u root -p toor", "nxc ssh 10.0.0.1 -u root -p ****"),
    ("ncat --proxy h:3128 --proxy-auth bob:pw d 22", "ncat --proxy h:3128 --proxy-auth bob:**** d 22"),
    ("mysql -uroot -ps3cret -h db", "mysql -uroot -p**** -h db"),
    ("mysqldump -h db -u root --password=s3cret app", "mysqldump -h db -u root --password=**** app"),
    ("mariadb-dump -ps3cret app", "mariadb-dump -p**** app"),
    ("curl -u bob:pw https://h", "curl -u bob:**** https://h"),
    ("curl -ubob:pw https://h", "curl -ubob:**** https://h"),
    ("curl -fsSku bob:pw https://h:8443/", "curl -fsSku bob:**** https://h:8443/"),
    ("curl --user bob:p:w --proxy-user=al:pw h", "curl --user bob:**** --proxy-user=al:**** h"),
    ("curl -u bob:my·pass h", "curl -u bob:**** h"),
    ("curl -x bob:pw@proxy:3128 h", "curl -x bob:****@proxy:3128 h"),
    ("curl -b session=abc h", "curl -b session=**** h"),
    ("curl --oauth2-bearer abc h", "curl --oauth2-bearer **** h"),
    ("http -a bob:pw GET h", "http -a bob:**** GET h"),
    ("lftp -u bob,pw sftp://h", "lftp -u bob,**** sftp://h"),
    ("smbclient -U bob%pw //h/share", "smbclient -U bob%**** //h/share"),
    ("rpcclient -Ubob%pw h", "rpcclient -Ubob%**** h"),
    (
        "mount.cifs //h/s /mnt -o user=a,password=pw,uid=0",
        "mount.cifs //h/s /mnt -o user=a,password=****,uid=0",
    ),
    ("ldapsearch -x -D cn=a -w pw -b dc=x", "ldapsearch -x -D cn=a -w **** -b dc=x"),
    ("ldapmodify -xwpw -f f", "ldapmodify -xw**** -f f"),
    ("openssl rsa -passin pass:pw -in k", "openssl rsa -passin pass:**** -in k"),
    ("openssl enc -aes256 -k pw -in f", "openssl enc -aes256 -k **** -in f"),
    ("keytool -list -storepass pw -keystore k", "keytool -list -storepass **** -keystore k"),
    ("redis-cli -h db -a pw ping", "redis-cli -h db -a **** ping"),
    ("mongosh -u root -p pw db", "mongosh -u root -p **** db"),
    ("docker login -u bob -p pw reg.example.net", "docker login -u bob -p **** reg.example.net"),
    ("podman --log-level debug login -ppw reg", "podman --log-level debug login -p**** reg"),
    ("vault login s.abc", "vault login ****"),
    ("aws configure set aws_secret_access_key abc", "aws configure set aws_secret_access_key ****"),
    ("sqlcmd -S h -U sa -P pw -Q x", "sqlcmd -S h -U sa -P **** -Q x"),
    ("htpasswd -b .ht alice pw", "htpasswd -b .ht alice ****"),
    ("htpasswd -nbB alice pw", "htpasswd -nbB alice ****"),
    ("wpa_passphrase home s3cret", "wpa_passphrase home ****"),
    ("nmcli dev wifi connect home password pw", "nmcli dev wifi connect home password ****"),
    ("xfreerdp /u:bob /p:pw /v:h", "xfreerdp /u:bob /p:**** /v:h"),
    ("zip -rP pw out.zip dir", "zip -rP **** out.zip dir"),
    ("7z x -ppw a.7z", "7z x -p**** a.7z"),
    ("gpg --batch --passphrase pw -d f", "gpg --batch --passphrase **** -d f"),
    ("useradd -m -p $6$salt$hash bob", "useradd -m -p **** bob"),
    ("busybox wget --password pw ftp://h", "busybox wget --password **** ftp://h"),
];

#[test]
fn a_program_s_own_options_are_masked() {
    check(&builtin(), BY_PROGRAM);
}

const BY_NAME: &[(&str, &str)] = &[
    ("tool --password s3cret host", "tool --password **** host"),
    ("tool --password=s3cret host", "tool --password=**** host"),
    ("tool --password=correct·horse host", "tool --password=**** host"),
    ("tool --password -Xa3kd9 host", "tool --password **** host"),
    ("tool --Db-Password a --db_password b", "tool --Db-Password **** --db_password ****"),
    (
        "tool --api-key a --access-token=b --client-secret c",
        "tool --api-key **** --access-token=**** --client-secret ****",
    ),
    (
        "tool -password a -Djavax.net.ssl.keyStorePassword=b",
        "tool -password **** -Djavax.net.ssl.keyStorePassword=****",
    ),
    ("wget --http-password=a --ftp-password b u", "wget --http-password=**** --ftp-password **** u"),
    ("env SSHPASS=a sshpass -e ssh -p 22 h", "env SSHPASS=**** sshpass -e ssh -p 22 h"),
    (
        "env PGPASSWORD=a b MYSQL_PWD=c AWS_SECRET_ACCESS_KEY=d x",
        "env PGPASSWORD=**** b MYSQL_PWD=**** AWS_SECRET_ACCESS_KEY=**** x",
    ),
    ("env PASSWORD=correct·horse·staple ssh h", "env PASSWORD=**** ssh h"),
    (
        "docker run -e DB_PASS=a --env=API_TOKEN=b -eMY_SECRET=c img",
        "docker run -e DB_PASS=**** --env=API_TOKEN=**** -eMY_SECRET=**** img",
    ),
    ("ssh -o SetEnv=GH_TOKEN=a host", "ssh -o SetEnv=GH_TOKEN=**** host"),
    (
        "kubectl create secret generic x --from-literal=password=a",
        "kubectl create secret generic x --from-literal=password=****",
    ),
    ("helm upgrade --set a=b,db.password=c,d=e app", "helm upgrade --set a=b,db.password=****,d=e app"),
    ("psql host=db·password=pw·dbname=app", "psql host=db·password=****·dbname=app"),
    ("isqlcli Uid=a;Pwd=pw;Db=x", "isqlcli Uid=a;Pwd=****;Db=x"),
    ("isqlcli Server=h;Uid=a;Password=pw;Db=x", "isqlcli Server=h;Uid=a;Password=****;Db=x"),
    (
        "azcopy cp https://a.example/b?sv=1&sig=abc&se=2 .",
        "azcopy cp https://a.example/b?sv=1&sig=****&se=2 .",
    ),
    ("curl https://h/api?token=abc&q=1", "curl https://h/api?token=****&q=1"),
    ("curl -d user[password]=pw h", "curl -d user[password]=**** h"),
    (
        "curl -d {\"user\":\"a\",\"password\":\"b·c\",\"x\":1} h",
        "curl -d {\"user\":\"a\",\"password\":\"****\",\"x\":1} h",
    ),
    (
        "curl -d {\"user\":·\"a\",·\"password\"·:·\"b·c\"} h",
        "curl -d {\"user\":·\"a\",·\"password\"·:·\"****\"} h",
    ),
    ("ansible-playbook -e ansible_password=a·x=1 s.yml", "ansible-playbook -e ansible_password=**** s.yml"),
    (
        "ansible-playbook -e x=1·ansible_password=a·y=2 s.yml",
        "ansible-playbook -e x=1·ansible_password=****·y=2 s.yml",
    ),
    ("socat - PROXY:p:h:22,proxyauth=bob:pw", "socat - PROXY:p:h:22,proxyauth=****"),
    ("openvpn PASSWD=a↵b", "openvpn PASSWD=****"),
    ("curl -H Authorization:·Bearer·abc h", "curl -H Authorization:·**** h"),
    ("curl -HX-Api-Key:abc h", "curl -HX-Api-Key:**** h"),
    ("curl -H Cookie:·a=b;·c=d -H X-Foo-Token:·abc h", "curl -H Cookie:·**** -H X-Foo-Token:·**** h"),
    ("curl -H private-token:·abc h", "curl -H private-token:·**** h"),
    (
        "git -c http.extraHeader=Authorization:·Basic·abc fetch",
        "git -c http.extraHeader=Authorization:·**** fetch",
    ),
];

#[test]
fn secret_names_are_masked_in_any_program() {
    check(&builtin(), BY_NAME);
}

const IN_URLS: &[(&str, &str)] = &[
    ("git clone https://bob:pw@example.net/r.git", "git clone https://bob:****@example.net/r.git"),
    ("curl ftp://bob:p@ss@h/x", "curl ftp://bob:****@h/x"),
    ("curl https://:pw@h", "curl https://:****@h"),
    ("curl https://bob:pw@[::1]:8443/", "curl https://bob:****@[::1]:8443/"),
    ("psql postgres://bob:a/b@db/app", "psql postgres://bob:****@db/app"),
    ("rsync rsync://bob:pw@h/m /m", "rsync rsync://bob:****@h/m /m"),
    (
        "env https_proxy=http://bob:pw@proxy:3128 git pull",
        "env https_proxy=http://bob:****@proxy:3128 git pull",
    ),
    ("sh -c curl·https://a:b@c·socks5://d:e@f", "sh -c curl·https://a:****@c·socks5://d:****@f"),
    ("mongosh mongodb://u:pw@a:27017,b:27017/db", "mongosh mongodb://u:****@a:27017,b:27017/db"),
    ("git-remote-https origin https://oauth2:abc@h/r", "git-remote-https origin https://oauth2:****@h/r"),
];

#[test]
fn passwords_in_urls_are_masked() {
    check(&builtin(), IN_URLS);
}

#[test]
fn tokens_are_known_by_their_shape() {
    let alnum = "0123456789abcdefghijABCDEFGHIJ0123456789";
    let table = [
        (format!("git clone https://ghp_{alnum}@github.com/a"), "git clone https://****@github.com/a"),
        (format!("tool github_pat_{alnum} x"), "tool **** x"),
        (format!("tool id=glpat-{alnum}"), "tool id=****"),
        (format!("slack xoxb-12345-{alnum} xoxp-12345-{alnum}"), "slack **** ****"),
        ("tool eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl".to_owned(), "tool ****"),
        (format!("npm set //registry.npmjs.org/:_x npm_{alnum}"), "npm set //registry.npmjs.org/:_x ****"),
    ];
    check(&builtin(), &table.each_ref().map(|(given, expected)| (given.as_str(), *expected)));
}

const IN_TEXT: &[(&str, &str)] = &[
    ("sh -c sshpass·-p·s3cret·ssh·h", "sh -c sshpass·-p·****·ssh·h"),
    ("bash -lc sshpass·-p·'my·pass'·ssh·-p·22·h", "bash -lc sshpass·-p·'****'·ssh·-p·22·h"),
    ("-bash -c PASSWORD=a·ssh·h", "-bash -c PASSWORD=****·ssh·h"),
    ("bash run.sh PASSWORD=a·b", "bash run.sh PASSWORD=****"),
    ("ssh host mysql·-psecret·app", "ssh host mysql·-p****·app"),
    ("ssh host mysql -psecret app", "ssh host mysql -p**** app"),
    ("ssh -p 22 mysql mysql -psecret -i mysql", "ssh -p 22 mysql mysql -p**** -i mysql"),
    ("ssh host -- mysql -psecret", "ssh host -- mysql -p****"),
    ("ssh host curl -H Authorization:·Bearer·abc h", "ssh host curl -H Authorization:·**** h"),
    ("ssh host env -i mysql -psecret", "ssh host env -i mysql -p****"),
    ("ssh host PGPASSWORD=x·pg_dump·-h·db", "ssh host PGPASSWORD=****·pg_dump·-h·db"),
    (
        "ssh host export·TOKEN=\"a·b\";·PGPASSWORD=x·psql",
        "ssh host export·TOKEN=\"****\";·PGPASSWORD=****·psql",
    ),
    ("ssh host PASSWORD=a\\·b·cmd", "ssh host PASSWORD=****·cmd"),
    ("ssh host PASSWORD='a'\"b·c\"·cmd", "ssh host PASSWORD=****·cmd"),
    ("ssh host sh·-c·'mysql·-psecret'", "ssh host sh·-c·'mysql·-p****'"),
    (
        "ssh a ssh·b·\"sh·-c·\\\"sshpass·-p·'x·y'·ssh·c\\\"\"",
        "ssh a ssh·b·\"sh·-c·\\\"sshpass·-p·'****'·ssh·c\\\"\"",
    ),
    (
        "ssh -o ProxyCommand=sshpass·-p·x·ssh·-W·%h:%p·j host",
        "ssh -o ProxyCommand=sshpass·-p·****·ssh·-W·%h:%p·j host",
    ),
    (
        "ssh -oProxyCommand=ncat·--proxy-auth·u:p·%h·%p host",
        "ssh -oProxyCommand=ncat·--proxy-auth·u:****·%h·%p host",
    ),
    ("rsync --rsh=sshpass·-p·x·ssh·-p·22 a h:", "rsync --rsh=sshpass·-p·****·ssh·-p·22 a h:"),
    ("rsync -e sshpass·-p·x·ssh·-p·22 a h:", "rsync -e sshpass·-p·****·ssh·-p·22 a h:"),
    ("sh -c rsync·--rsh=\"sshpass·-p·x·ssh\"·a·h:", "sh -c rsync·--rsh=\"sshpass·-p·****·ssh\"·a·h:"),
    ("su - alice -c mysql·-psecret", "su - alice -c mysql·-p****"),
    ("su -c PASSWORD=x·cmd alice", "su -c PASSWORD=****·cmd alice"),
    ("sh -c curl·-H·'Authorization:·Bearer·abc'·https://h", "sh -c curl·-H·'Authorization:·****'·https://h"),
    (
        "sh -c curl·-d·\"{\\\"password\\\":\\\"a·b\\\"}\"·h",
        "sh -c curl·-d·\"{\\\"password\\\":\\\"****\\\"}\"·h",
    ),
    (
        "sh -c git·-c·\"http.extraHeader=Authorization:·Basic·abc\"·pull",
        "sh -c git·-c·\"http.extraHeader=Authorization:·****\"·pull",
    ),
    ("sh -c docker·run·-e·\"DB_PASSWORD=a·b\"·img·ls", "sh -c docker·run·-e·\"DB_PASSWORD=****\"·img·ls"),
    ("sh -c x=$(sshpass·-p·s·ssh·h·id)", "sh -c x=$(sshpass·-p·****·ssh·h·id)"),
    ("lftp -c open·-u·bob,pw·sftp://h;·get·x", "lftp -c open·-u·bob,****·sftp://h;·get·x"),
    ("tmux new-session sshpass·-p·s·ssh·h", "tmux new-session sshpass·-p·****·ssh·h"),
    ("mysql·-uroot·-psecret·app", "mysql·-uroot·-p****·app"),
    ("sh -c tool·--password·'a·b'·host", "sh -c tool·--password·'****'·host"),
    ("sh -c curl·-su·'bob:p·w'·h↵ssh·-p·22·h", "sh -c curl·-su·'bob:****'·h↵ssh·-p·22·h"),
    ("bash -c exec·3<&1;·sshpass·-ps·ssh·-p22·h", "bash -c exec·3<&1;·sshpass·-p****·ssh·-p22·h"),
];

#[test]
fn shell_text_is_masked_inside() {
    check(&builtin(), IN_TEXT);
}

#[test]
fn the_user_can_add_options_and_variables() {
    let extra = ["--pin", "NIP=", "VAULT_ADDR", "-k", "", "-", "--", "="].map(str::to_owned);
    let table = [
        ("tool --pin 1234 host", "tool --pin **** host"),
        ("tool --pin=1234 host", "tool --pin=**** host"),
        ("tool --pin --1234 host", "tool --pin **** host"),
        ("tool NIP=1 vault_addr=2 --nip=3", "tool NIP=**** vault_addr=**** --nip=****"),
        ("tool -k abc -kdef -K x", "tool -k **** -k**** -K x"),
        ("sh -c tool·--pin·1234·host", "sh -c tool·--pin·****·host"),
        ("tool --pinned 5 --spin=1 SNIP=1 - -- a=b", "tool --pinned 5 --spin=1 SNIP=1 - -- a=b"),
    ];
    check(&Masker::new(&extra), &table);
}

#[test]
fn bytes_that_are_no_text_pass_unharmed() {
    let mut args = vec![
        b"\xff\xfe--password=x".to_vec(),
        b"PASSWORD=\xff\x00\xc3".to_vec(),
        b"a \xf0\x28 b".to_vec(),
        vec![],
    ];
    assert_eq!(builtin().mask(&mut args), 2);
    assert_eq!(
        args,
        [b"\xff\xfe--password=****".to_vec(), b"PASSWORD=****".to_vec(), b"a \xf0\x28 b".to_vec(), vec![]]
    );
    assert_eq!(builtin().mask(&mut []), 0);
}

#[test]
fn no_program_is_in_the_table_twice() {
    let mut names: Vec<_> = PROGRAMS.iter().flat_map(|program| program.names.split(' ')).collect();
    names.sort_unstable();
    assert!(names.iter().all(|name| !name.is_empty()));
    assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
}

#[test]
fn the_module_s_page_names_every_program_that_takes_a_secret() {
    use Value::{Command, Host, Plain, Script};
    let page = include_str!("mod.rs");
    for program in PROGRAMS {
        let secret = program.rules.iter().any(|(_, value)| !matches!(value, Command | Host | Plain | Script));
        let named = program.names.split(' ').any(|name| page.contains(&format!("`{name}`")));
        assert!(named || !secret, "{}", program.names);
    }
    assert!(super::rules().any(|rule| rule == ("sshpass", "-p")));
}

/// A command line with one secret at `@`, in an argument of its own or not.
const ARGUMENTS: &[&str] = &[
    "sshpass -p @ ssh -p 22 host",
    "sshpass -p@ ssh host",
    "plink -pw @ host",
    "mysql -uroot -p@ db",
    "curl -u bob:@ https://example.org",
    "curl -subob:@ https://example.org",
    "sudo env PASSWORD=@ ssh host",
    "tool --token=@ host",
    "docker run --env=API_KEY=@ img",
    "curl -H Authorization:·Bearer·@ https://example.org",
    "lftp -u bob,@ sftp://h",
    "smbclient -U bob%@ //h/s",
    "openssl rsa -passin pass:@",
    "htpasswd -b .ht alice @",
    "xfreerdp /p:@ /v:h",
];

/// The same in places that bound what a secret may hold.
const TEXTS: &[&str] = &[
    "sh -c sshpass·-p·@·ssh·-p·22·h",
    "sh -c sshpass·-p·'@'·ssh·h",
    "ssh host mysql·-p@·app",
    "ssh host \"mysql·-p@\"·app",
    "ssh a sh·-c·\"sshpass·-p·'@'·ssh·c\"",
    "ssh -o ProxyCommand=sshpass·-p·@·ssh·j host",
    "git clone https://bob:@@example.net/r",
    "psql host=h·password=@·dbname=d",
    "curl -d {\"a\":1,\"password\":\"@\"} h",
    "tool https://h/?token=@&x=1",
    "tool a=1,password=@,b=2",
    "tool --password @ host",
];

fn filled(template: &str, secret: &[u8]) -> Vec<Vec<u8>> {
    // "@@" is a secret and the "@" after it.
    let fill = |arg: Vec<u8>| match arg.iter().position(|byte| *byte == b'@') {
        Some(at) => [&arg[..at], secret, &arg[at + 1..]].concat(),
        None => arg,
    };
    arguments(template).into_iter().map(fill).collect()
}

/// Pieces that mean something to the masker, and some that do not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = "sshpass ssh sh mysql curl docker login htpasswd vault openssl xfreerdp su sudo - -- -p -pX -c -u -b -nb \
                 --password --password= PASSWORD= TOKEN: Authorization: a:b user:pw@h https:// https://u:p@h ?token= &x= \
                 , ; | & { } [ ] ( ) $( ` ' \" \\\" \\' \\ = : @ % pass: /p: host 22 **** eyJa.eyJb.cccccccccccccccc";
    let words: Vec<_> = words.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
    prop_oneof![
        6 => prop::sample::select(words),
        2 => prop::sample::select(vec![b" ".to_vec(), b"\n".to_vec(), b"\t".to_vec()]),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ]
}

fn hostile() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let arg = prop::collection::vec(piece(), 0..8).prop_map(|pieces| pieces.concat());
    prop::collection::vec(arg, 0..8)
}

/// Whether `masked` is `arg` with parts of it replaced by the mask.
fn is_masked_form(arg: &[u8], masked: &[u8]) -> bool {
    arg == masked
        || (0..masked.len())
            .filter(|at| masked[*at..].starts_with(MASK) && arg.starts_with(&masked[..*at]))
            .any(|at| (at..=arg.len()).any(|end| is_masked_form(&arg[end..], &masked[at + MASK.len()..])))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_is_masked_without_panic_once_and_in_place(args in hostile()) {
        let masker = builtin();
        let mut once = args.clone();
        let count = masker.mask(&mut once);
        prop_assert_eq!(once.len(), args.len());
        prop_assert_eq!(count == 0, once == args);
        for (masked, arg) in once.iter().zip(&args) {
            prop_assert!(is_masked_form(arg, masked), "{:?} from {:?}", text(masked), text(arg));
        }
        // Where hostile text lets two rules overlap, a second pass may find more; it never brings anything back.
        let mut twice = once.clone();
        masker.mask(&mut twice);
        for (again, masked) in twice.iter().zip(&once) {
            prop_assert!(is_masked_form(masked, again), "{:?} from {:?}", text(again), text(masked));
        }
    }

    #[test]
    fn no_secret_leaks_from_an_argument(secret in "[ -~]{0,20}[A-Z]{4}[ -~]{0,20}", template in prop::sample::select(ARGUMENTS)) {
        let mut args = filled(template, secret.as_bytes());
        prop_assert!(builtin().mask(&mut args) > 0);
        prop_assert!(is_stable(&args), "{}", line(&args));
        let core: String = secret.chars().filter(char::is_ascii_uppercase).collect();
        prop_assert!(!line(&args).contains(&core), "{}", line(&args));
    }

    #[test]
    fn no_secret_leaks_from_text(secret in "[A-Za-z0-9!$%+./:=?^_~-]{6,24}", template in prop::sample::select(TEXTS)) {
        let secret = format!("Q{secret}");
        let mut args = filled(template, secret.as_bytes());
        prop_assert!(builtin().mask(&mut args) > 0);
        prop_assert!(is_stable(&args), "{}", line(&args));
        let shown = line(&args);
        prop_assert!(!secret.as_bytes().windows(5).any(|part| shown.contains(&*String::from_utf8_lossy(part))), "{}", shown);
    }
}
