//! Command lines as people and programs make them, and what each means.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Forwards, Meaning, Role, Route, TOOLS, Title, is_client, is_server};
use super::{line, meaning, mux_title, parse_title, program, route, tool};
use crate::process::Process;

#[path = "../../tests/support/not_run.rs"]
mod not_run;

/// A process, its ancestors before it, parted by ` > `; the connection is the last one's. Below it the route and what was
/// asked for: `to` as typed; `host` where it differs; options by their letters (`J` the hops); `sub` the subsystem, `runs`
/// the remote command; `shared` a master; `via` the name that this connection goes to, where it is not the host's.
const CASES: &str = r#"
# Plain logins.
ssh web1
    direct to=web1
ssh alice@web1
    direct to=alice@web1 host=web1 login=alice
ssh alice@corp.example@web1
    direct to=alice@corp.example@web1 host=web1 login=alice@corp.example
ssh -l alice web1
    direct to=web1 login=alice
ssh -l bob alice@web1
    direct to=alice@web1 host=web1 login=bob
ssh alice@web1 -l bob
    direct to=alice@web1 host=web1 login=alice
ssh -p 2222 web1
    direct to=web1 port=2222
ssh -p2222 alice@web1
    direct to=alice@web1 host=web1 login=alice port=2222
ssh -p ssh web1
    direct to=web1 port=22
ssh web1 -p 2222
    direct to=web1 port=2222
ssh -oPort=2222 -p 22 web1
    direct to=web1 port=2222
ssh 192.0.2.7
    direct to=192.0.2.7 via=-
ssh root@2001:db8::7
    direct to=root@2001:db8::7 host=2001:db8::7 login=root via=-
ssh -6 fe80::1%eth0
    direct to=fe80::1%eth0 via=-
ssh ssh://alice@web1:2222
    direct to=ssh://alice@web1:2222 host=web1 login=alice port=2222
ssh ssh://alice@web1:2222/ -p 22
    direct to=ssh://alice@web1:2222/ host=web1 login=alice port=2222
ssh -4vvvCq web1
    direct to=web1
ssh -i ~/.ssh/id_ed25519 -F /dev/null -b 10.0.0.1 -B eth0 -c aes128-ctr -m hmac-sha2-256 -e none -E /tmp/log -I /usr/lib/pkcs11.so web1
    direct to=web1
ssh -o 'User alice' -o 'Port = 2222' web1
    direct to=web1 login=alice port=2222
ssh -o User=alice -o user=bob web1
    direct to=web1 login=alice
ssh -oHostName=10.0.0.5 web1
    direct to=web1 host=10.0.0.5 via=-
ssh -o HostName=%h.example web1
    direct to=web1 host=web1.example
ssh -o HostKeyAlias=web1 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null web1
    direct to=web1
ssh -- web1
    direct to=web1
ssh -P prod web1
    direct to=web1
ssh -Q cipher
    direct
ssh -V
    direct
# Remote commands.
ssh web1 uptime
    direct to=web1 runs=uptime
ssh web1 -- ls -l
    direct to=web1 runs=ls
ssh web1 ls -l /
    direct to=web1 runs=ls
ssh -t web1 sudo -i
    direct to=web1 runs=sudo
ssh web1 -t tmux attach
    direct to=web1 runs=tmux
ssh -n web1 'cd /srv && ./deploy -p 22'
    direct to=web1 runs=cd
ssh -o RemoteCommand='tmux new -A' web1
    direct to=web1 runs=tmux
ssh -s web1 sftp
    direct to=web1 sub=sftp
ssh web1 -s netconf
    direct to=web1 sub=netconf
ssh -oSessionType=subsystem web1 sftp
    direct to=web1 sub=sftp
ssh -N web1
    direct to=web1
# Forwards.
ssh -NT -L 8080:db1:5432 web1
    direct to=web1 L=8080:db1:5432
ssh -NfL8080:db1:5432 alice@bastion
    direct to=alice@bastion host=bastion login=alice L=8080:db1:5432
ssh -L 127.0.0.1:8080:db1:5432 -L [::1]:8081:[2001:db8::1]:80 web1
    direct to=web1 L=127.0.0.1:8080:db1:5432,[::1]:8081:[2001:db8::1]:80
ssh -fN -L /tmp/db.sock:/run/postgresql/.s.PGSQL.5432 db1
    direct to=db1 L=/tmp/db.sock:/run/postgresql/.s.PGSQL.5432
ssh -R 9000:localhost:3000 -N web1
    direct to=web1 R=9000:localhost:3000
ssh -R 0.0.0.0:9000:localhost:3000 web1
    direct to=web1 R=0.0.0.0:9000:localhost:3000
ssh -R 1080 web1
    direct to=web1 R=1080
ssh -D 1080 -q -C -N web1
    direct to=web1 D=1080
ssh -D '*:1080' web1
    direct to=web1 D=*:1080
ssh -gD1080 web1
    direct to=web1 D=1080
ssh -W db1:22 bastion
    direct to=bastion W=db1:22
ssh -w 0:0 root@web1
    direct to=root@web1 host=web1 login=root w=0:0
ssh -o Tunnel=ethernet -w any root@web1
    direct to=root@web1 host=web1 login=root w=any
ssh -oTunnel=yes web1
    direct to=web1 w=any
ssh -oTunnelDevice=0:1 web1
    direct to=web1
ssh -o 'LocalForward 8080 db1:5432' -o 'RemoteForward=9000 localhost:3000' -o DynamicForward=1080 web1
    direct to=web1 L=8080:db1:5432 R=9000:localhost:3000 D=1080
ssh -oClearAllForwardings=yes -L 8080:db1:5432 web1
    direct to=web1
ssh -o ExitOnForwardFailure=yes -o ServerAliveInterval=30 -NR 0.0.0.0:2222:localhost:22 tunnel@relay.example
    direct to=tunnel@relay.example host=relay.example login=tunnel R=0.0.0.0:2222:localhost:22
ssh -i /root/.ssh/k3s -o StrictHostKeyChecking=no -N -L 6443:127.0.0.1:6443 core@10.0.0.9
    direct to=core@10.0.0.9 host=10.0.0.9 login=core L=6443:127.0.0.1:6443 via=-
# Shared connections.
ssh -M -S /tmp/cm-%r@%h web1
    mux_master to=web1 S=/tmp/cm-%r@%h shared=yes
ssh -fNM web1
    mux_master to=web1 shared=yes
ssh -o ControlMaster=auto -o ControlPath=~/.ssh/cm-%C -o ControlPersist=10m web1
    mux_master to=web1 S=~/.ssh/cm-%C shared=yes
ssh -o ControlMaster=no -S /tmp/cm web1
    direct to=web1 S=/tmp/cm
ssh -o ControlMaster=auto -o ControlPath=none web1
    direct to=web1
ssh -MS none web1
    direct to=web1
ssh -O check -S /tmp/cm web1
    direct to=web1 S=/tmp/cm O=check
ssh -O forward -L 8080:db1:80 -S /tmp/cm web1
    direct to=web1 L=8080:db1:80 S=/tmp/cm O=forward
ssh -S /tmp/a -o ControlPath=/tmp/b web1
    direct to=web1 S=/tmp/a
'ssh: /home/alice/.ssh/cm-3f2a [mux]'
    mux_master S=/home/alice/.ssh/cm-3f2a shared=yes
'ssh: /root/.ansible/cp/8a5a4c6a17 [mux]'
    mux_master tool=ansible S=/root/.ansible/cp/8a5a4c6a17 shared=yes
ssh -fNM web1 > 'ssh: /tmp/a b [mux]'
    mux_master S=/tmp/a b shared=yes
# Jumps.
ssh -J bastion web1 > ssh -W '[web1]:22' bastion
    jump to=web1 J=bastion via=bastion
ssh -J alice@bastion:2222 root@web1 > ssh -l alice -p 2222 -W '[web1]:22' bastion
    jump to=root@web1 host=web1 login=root J=alice@bastion:2222 via=bastion
ssh -J a,b,c web1 > ssh -J a,b -W '[web1]:22' c > ssh -J a -W '[c]:22' b > ssh -W '[b]:22' a
    jump to=web1 J=a,b,c via=a
ssh web1 > ssh -W '[web1]:22' bastion
    jump to=web1 J=bastion via=bastion
ssh -v web1 > ssh -l ops -p 2222 -v -W '[10.0.0.5]:22' -v bastion.example
    jump to=web1 J=ops@bastion.example:2222 via=bastion.example
ssh web1 > ssh -J a -W '[web1]:22' b > ssh -W '[b]:22' a
    jump to=web1 J=a,b via=a
ssh -oProxyJump=bastion web1 > ssh -W '[web1]:22' bastion
    jump to=web1 J=bastion via=bastion
ssh -J 10.0.0.1 web1 > ssh -W '[web1]:22' 10.0.0.1
    jump to=web1 J=10.0.0.1 via=-
scp -J bastion f web1: > ssh -x -oPermitLocalCommand=no -oClearAllForwardings=yes -oRemoteCommand=none -oRequestTTY=no -J bastion -s -- web1 sftp > ssh -W '[web1]:22' bastion
    jump to=web1 J=bastion sub=sftp tool=scp via=bastion
-bash > ssh -J bastion web1 > ssh -W '[web1]:22' bastion
    jump to=web1 J=bastion via=bastion
ssh -J bastion web1
    direct to=web1 J=bastion via=-
ssh -J none web1
    direct to=web1
# Relays.
ssh -o 'ProxyCommand=ssh -W %h:%p bastion' web1 > ssh -W web1:22 bastion
    proxy_command to=web1 J=bastion via=bastion
ssh web1 > ssh -W web1:22 bastion
    proxy_command to=web1 J=bastion via=bastion
ssh -o 'ProxyCommand=ssh bastion nc %h %p' web1 > ssh bastion nc web1 22
    proxy_command to=web1 J=bastion via=bastion
ssh web1 > ssh -q bastion nc -q0 web1 22
    proxy_command to=web1 J=bastion via=bastion
ssh web1 > sh -c 'ssh bastion exec nc web1 22 2>/dev/null' > ssh bastion exec nc web1 22
    proxy_command to=web1 J=bastion via=bastion
ssh -o 'ProxyCommand=nc %h %p' web1 > nc web1 22
    proxy_command to=web1 via=-
ssh web1 > nc -X connect -x proxy:3128 web1 22
    proxy_command to=web1 via=-
ssh web1 > sh -c 'connect -S socks:1080 web1 22; true' > connect -S socks:1080 web1 22
    proxy_command to=web1 via=-
ssh web1 > python3 /usr/local/bin/proxy.py web1 22
    proxy_command to=web1 via=-
ssh -oProxyCommand='cloudflared access ssh --hostname %h' web1 > cloudflared access ssh --hostname web1
    proxy_command to=web1 via=-
ssh web1 > sh -c 'aws ssm start-session --target i-1' > python3 /usr/bin/aws ssm start-session --target i-1 > session-manager-plugin {}
    proxy_command to=web1 via=-
ssh -o ProxyCommand='sudo -u relay nc %h %p' web1 > sudo -u relay nc web1 22 > nc web1 22
    proxy_command to=web1 via=-
ssh -o ProxyCommand=none web1 > nc web1 22
    other nothing
ssh -o PermitLocalCommand=yes -o LocalCommand='rsync -a . backup:' web1 > bash -c 'rsync -a . backup:' > rsync -a . backup: > ssh backup rsync --server -logDtpre.iLsfxCIvu . .
    direct to=backup sub=rsync tool=rsync runs=rsync
ssh web1 > bash -i > nc 10.0.0.1 22
    other nothing
ssh web1 > ssh -oProxyJump=none web2
    direct to=web2
ssh -J bastion web1 > ssh -o 'ProxyCommand=nc %h %p' -W '[web1]:22' bastion > nc bastion 22
    proxy_command to=web1 J=bastion via=-
ssh -o ProxyUseFdpass=yes -o 'ProxyCommand=nc -F -X 5 -x proxy:1080 %h %p' web1
    proxy_command to=web1 via=-
bash -i > nc web1 22
    other nothing
# scp and sftp.
bash > scp f web1:/tmp > ssh -x -oPermitLocalCommand=no -oClearAllForwardings=yes -oRemoteCommand=none -oRequestTTY=no -oForwardAgent=no -s -- web1 sftp
    direct to=web1 sub=sftp tool=scp
scp -P 2222 f alice@web1: > ssh -x -oPermitLocalCommand=no -oClearAllForwardings=yes -oRemoteCommand=none -oRequestTTY=no -oForwardAgent=no -p 2222 -l alice -s -- web1 sftp
    direct to=web1 login=alice port=2222 sub=sftp tool=scp
scp -O f web1: > ssh -x -oPermitLocalCommand=no -oClearAllForwardings=yes -oRemoteCommand=none -oRequestTTY=no -- web1 'scp -t .'
    direct to=web1 sub=scp tool=scp runs=scp
scp web1:f . > ssh -x -oForwardAgent=no -oPermitLocalCommand=no -oClearAllForwardings=yes -- web1 scp -v -f f
    direct to=web1 sub=scp tool=scp runs=scp
ssh -x -oForwardAgent=no -oPermitLocalCommand=no -oClearAllForwardings=yes -- web1 'scp -r -t /srv'
    direct to=web1 sub=scp tool=scp runs=scp
sftp web1 > ssh '-oForwardX11 no' '-oPermitLocalCommand no' '-oClearAllForwardings yes' '-oForwardAgent no' -s -- web1 sftp
    direct to=web1 sub=sftp tool=sftp
sftp -P 2222 alice@web1 > ssh '-oForwardX11 no' '-oPermitLocalCommand no' '-oClearAllForwardings yes' '-oForwardAgent no' -p 2222 -l alice -s -- web1 sftp
    direct to=web1 login=alice port=2222 sub=sftp tool=sftp
ssh web1 /usr/lib/openssh/sftp-server
    direct to=web1 sub=sftp runs=/usr/lib/openssh/sftp-server
# rsync, git, sshfs and others.
rsync -a . web1:/srv > ssh web1 rsync --server -logDtpre.iLsfxCIvu . /srv
    direct to=web1 sub=rsync tool=rsync runs=rsync
sh backup.sh > rsync -az -e 'ssh -p 2222' /etc bob@web1: > ssh -p 2222 -l bob web1 rsync --server -logDtprze.iLsfxCIvu . .
    direct to=web1 login=bob port=2222 sub=rsync tool=rsync runs=rsync
rsync -a web1:/srv . > ssh -l alice web1 rsync --server --sender -logDtpre.iLsfxCIvu . /srv
    direct to=web1 login=alice sub=rsync tool=rsync runs=rsync
ssh web1 rsync --server --daemon .
    direct to=web1 sub=rsync tool=rsync runs=rsync
git fetch > ssh git@git.example 'git-upload-pack '\''team/app.git'\'''
    direct to=git@git.example host=git.example login=git sub=git tool=git runs=git-upload-pack
git push > ssh -o SendEnv=GIT_PROTOCOL git@git.example git-receive-pack\ \'team/app.git\'
    direct to=git@git.example host=git.example login=git sub=git tool=git runs=git-receive-pack
git clone ssh://git@git.example:2222/app.git > sh -c 'ssh -i deploy "$@"' > ssh -i deploy -o SendEnv=GIT_PROTOCOL -p 2222 git@git.example git-upload-pack\ \'/app.git\'
    direct to=git@git.example host=git.example login=git port=2222 sub=git tool=git runs=git-upload-pack
ssh git@git.example git-lfs-authenticate app.git download
    direct to=git@git.example host=git.example login=git sub=git tool=git runs=git-lfs-authenticate
ssh -x -a -oClearAllForwardings=yes -oport=2222 -2 alice@web1 -s sftp
    direct to=alice@web1 host=web1 login=alice port=2222 sub=sftp tool=sshfs
sshfs web1:/srv /mnt > ssh -x -a -oClearAllForwardings=yes -2 web1 -s sftp
    direct to=web1 sub=sftp tool=sshfs
perl /usr/bin/mosh alice@web1 > ssh -n -tt -S none -o 'ProxyCommand=/usr/bin/mosh --family=prefer-inet --fake-proxy -- %h %p' alice@web1 -- 'mosh-server new -c 256 -s' > perl /usr/bin/mosh --family=prefer-inet --fake-proxy -- web1 22
    proxy_command to=alice@web1 host=web1 login=alice tool=mosh runs=mosh-server via=-
autossh -M 20000 -N -R 2222:localhost:22 relay > ssh -L 20000:127.0.0.1:20000 -R 20000:127.0.0.1:20001 -N -R 2222:localhost:22 relay
    direct to=relay L=20000:127.0.0.1:20000 R=20000:127.0.0.1:20001,2222:localhost:22 tool=autossh
sh /usr/bin/ssh-copy-id alice@web1 > ssh alice@web1 'exec sh -c "cd ; umask 077"'
    direct to=alice@web1 host=web1 login=alice tool=ssh-copy-id runs=exec
python3 /usr/bin/ansible-playbook site.yml > python3 /usr/bin/ansible-playbook site.yml > ssh -C -o ControlMaster=auto -o ControlPersist=60s -o KbdInteractiveAuthentication=no -o PreferredAuthentications=gssapi-with-mic,gssapi-keyex,hostbased,publickey -o PasswordAuthentication=no -o 'User="deploy"' -o ConnectTimeout=10 -o 'ControlPath="/root/.ansible/cp/8a5a4c6a17"' 10.0.0.5 '/bin/sh -c '\''echo ~deploy && sleep 0'\'''
    mux_master to=10.0.0.5 login=deploy tool=ansible runs=/bin/sh S=/root/.ansible/cp/8a5a4c6a17 shared=yes via=-
python3 /usr/bin/ansible all -m ping > sshpass -d12 ssh -o ControlMaster=auto -o 'Port=2222' web1 > ssh -o ControlMaster=auto -o Port=2222 web1
    mux_master to=web1 port=2222 tool=ansible shared=yes
python3 /usr/bin/ansible-playbook -c paramiko site.yml
    other tool=ansible
python3 -m fabric deploy
    other tool=fabric
python3 /srv/paramiko_demo.py web1
    other tool=paramiko
python3 /usr/bin/fab -H web1 uptime
    other tool=fabric
python3 -c 'import paramiko'
    other nothing
python3 /usr/bin/sshuttle -r web1 0/0 > ssh web1 -- /bin/sh -c 'exec python3'
    direct to=web1 tool=sshuttle runs=/bin/sh
python3 /opt/google-cloud-sdk/lib/gcloud.py compute ssh vm > ssh -t -i /root/.ssh/google_compute_engine -o CheckHostIP=no -o HashKnownHosts=no -o HostKeyAlias=compute.81 -o IdentitiesOnly=yes alice@203.0.113.9
    direct to=alice@203.0.113.9 host=203.0.113.9 login=alice tool=gcloud via=-
docker -H ssh://alice@web1 ps > ssh -o ConnectTimeout=30 -l alice -- web1 docker system dial-stdio
    direct to=web1 login=alice tool=docker runs=docker
virsh -c qemu+ssh://root@kvm1/system list > ssh -T -e none -- root@kvm1 'sh -c '\''virt-ssh-helper qemu:///system'\'''
    direct to=root@kvm1 host=kvm1 login=root tool=libvirt runs=sh
borg create backup@vault:repo::x /etc > ssh backup@vault borg serve --umask=077
    direct to=backup@vault host=vault login=backup tool=borg runs=borg
svn ls svn+ssh://alice@web1/r > ssh -q -- alice@web1 svnserve -t
    direct to=alice@web1 host=web1 login=alice tool=svn runs=svnserve
hg pull > ssh web1 'hg -R repo serve --stdio'
    direct to=web1 tool=hg runs=hg
pdsh -w web[1-9] uptime > ssh -2 -a -x -lroot web3 uptime
    direct to=web3 login=root tool=pdsh runs=uptime
python3 /usr/bin/parallel-ssh -h hosts uptime > ssh web1 -o NumberOfPasswordPrompts=1 -o SendEnv=PSSH_NODENUM uptime
    direct to=web1 tool=pssh runs=uptime
lftp sftp://alice@web1 > ssh -a -x -s -l alice web1 sftp
    direct to=web1 login=alice sub=sftp tool=lftp
unison /srv ssh://web1//srv > ssh web1 -e none unison -server __new-rpc-mode
    direct to=web1 tool=unison runs=unison
python3 /usr/bin/salt-ssh '*' test.ping > sh -c ssh > ssh -o KbdInteractiveAuthentication=no -o Port=22 -o User=root 10.0.0.5 /bin/sh
    direct to=10.0.0.5 login=root port=22 tool=salt-ssh runs=/bin/sh via=-
python3 /srv/asyncssh-copy.py
    other tool=asyncssh
python3 -m netmiko.cli_tools.netmiko_show --cmd version switches
    other tool=netmiko
node /opt/code/server.js > sh -c ssh > ssh -v -T -D 54321 -o ConnectTimeout=15 web1 bash
    direct to=web1 D=54321 runs=bash
make deploy > sh -c 'ssh web1 true' > ssh web1 true
    direct to=web1 runs=true
packer build . > ssh -o StrictHostKeyChecking=no -i key -p 3000 vagrant@127.0.0.1
    direct to=vagrant@127.0.0.1 host=127.0.0.1 login=vagrant port=3000 via=-
ruby /usr/bin/vagrant ssh > ssh vagrant@127.0.0.1 -p 2222 -o LogLevel=FATAL -o Compression=yes -o DSAAuthentication=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -i /v/private_key
    direct to=vagrant@127.0.0.1 host=127.0.0.1 login=vagrant port=2222 via=-
'sshd: alice@pts/0' > -bash > git fetch > ssh git@git.example git-upload-pack\ \'a\'
    direct to=git@git.example host=git.example login=git sub=git tool=git runs=git-upload-pack
git fetch > bash > ssh web1
    direct to=web1
tmux new -s x > bash -i > ssh web1
    direct to=web1
# Dropbear.
dbclient alice@web1
    direct to=alice@web1 host=web1 login=alice
dbclient -p 2222 -l alice web1 uptime
    direct to=web1 login=alice port=2222 runs=uptime
dbclient -y -y -i id -p 22 web1^2222
    direct to=web1^2222 host=web1 port=2222
dbclient alice@web1/2222
    direct to=alice@web1/2222 host=web1 login=alice port=2222
dbclient -l bob alice@web1
    direct to=alice@web1 host=web1 login=alice
dbclient -N -f -L 8080:db1:80 -R 9000:localhost:3000 web1
    direct to=web1 L=8080:db1:80 R=9000:localhost:3000
dbclient -K 30 -I 300 -W 65536 -c aes128-ctr -m hmac-sha1 -b 10.0.0.1 web1
    direct to=web1
dbclient -o Port=2222 -oStrictHostKeyChecking=no web1 -t top -p 5
    direct to=web1 port=2222 runs=top
dbclient -s web1 sftp
    direct to=web1 sub=sftp
dbclient alice@a,bob@b^2222,root@web1 > dbclient -B web1:22 alice@a,bob@b^2222 > dbclient -B b:2222 alice@a
    jump to=alice@a,bob@b^2222,root@web1 host=web1 login=root J=alice@a,bob@b^2222 via=a
dbclient -J 'nc proxy 443' web1 > nc proxy 443
    proxy_command to=web1 via=-
dbclient -B db1:22 bastion
    direct to=bastion W=db1:22
dropbearmulti dbclient alice@web1
    direct to=alice@web1 host=web1 login=alice
# PuTTY.
plink -ssh -batch -P 2222 -l alice -pw **** web1 uptime -a
    direct to=web1 login=alice port=2222 runs=uptime
plink -N -L 8080:db1:80 -R 9000:localhost:3000 -D 1080 alice@web1
    direct to=alice@web1 host=web1 login=alice L=8080:db1:80 R=9000:localhost:3000 D=1080
plink -nc db1:22 bastion
    direct to=bastion W=db1:22
plink -load web1-session
    direct to=web1-session
plink ssh,alice@web1
    direct to=ssh,alice@web1 host=web1 login=alice
plink -proxycmd 'nc %host %port' web1 > nc web1 22
    proxy_command to=web1 via=-
plink -s web1 sftp
    direct to=web1 sub=sftp
plink -telnet web1
    other nothing
plink -P 2323 -raw web1
    other nothing
plink web1 show -raw
    direct to=web1 runs=show
rsync -e plink . web1: > plink web1 rsync --server -logDtpre.iLsfxCIvu . .
    direct to=web1 sub=rsync tool=rsync runs=rsync
pscp -P 2222 f alice@web1:/tmp
    direct to=alice@web1 host=web1 login=alice port=2222 sub=scp
pscp -r alice@[2001:db8::1]:/srv .
    direct to=alice@[2001:db8::1] host=2001:db8::1 login=alice sub=scp via=-
psftp -b batch alice@web1
    direct to=alice@web1 host=web1 login=alice sub=sftp
putty alice@web1 2222
    direct to=alice@web1 host=web1 login=alice port=2222
putty -ssh -P 2222 web1
    direct to=web1 port=2222
# Neither.
curl https://web1
    other nothing
bash
    other nothing
ssh-keyscan web1
    direct
sshpass -p **** ssh web1
    other nothing
'sshd: alice'
    forwarded nothing
'sshd-session: alice@pts/0'
    forwarded nothing
"#;

/// Where a program lies plays no part: all are under one folder. A title's program is named in it.
fn process(line: &str) -> Process {
    let args = line::words(line.trim().as_bytes());
    let first = args.first().cloned().unwrap_or_default();
    let called = first.split(|byte| *byte == b':').next().unwrap();
    let name = program::base_name(called.strip_prefix(b"-").unwrap_or(called));
    let executable = Some([b"/usr/bin/", name].concat());
    Process { executable, args, ..nobody() }
}

fn nobody() -> Process {
    Process { comm: b"nobody".to_vec(), ..Process::of_pid(7) }
}

fn lineage(line: &str) -> (Process, Vec<Arc<Process>>) {
    let mut processes: Vec<_> = line.split(" > ").map(process).collect();
    let owner = processes.pop().unwrap();
    (owner, processes.into_iter().rev().map(Arc::new).collect())
}

fn cases() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut lines = CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    std::iter::from_fn(move || Some((lines.next()?, lines.next().unwrap().trim())))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn told(line: &str) -> String {
    let (owner, ancestry) = lineage(line);
    let route = route(&owner, &ancestry).name();
    let Some(found) = meaning(&owner, &ancestry) else { return format!("{route} nothing") };
    let Meaning { target, host, login, port, jump, forwards, subsystem, tool, .. } = found.clone();
    let Forwards { local, remote, dynamic, stdio, tunnel } = forwards;
    let Meaning { command, control_path, control_command, multiplexed, destination, .. } = found;
    let list = |texts: Vec<Vec<u8>>| (!texts.is_empty()).then(|| texts.join(&b','));
    let via = (destination != host).then(|| destination.unwrap_or_else(|| b"-".to_vec()));
    let all = [
        ("to", target.clone()),
        ("host", host.filter(|host| Some(host) != target.as_ref())),
        ("login", login),
        ("port", port.map(|port| port.to_string().into_bytes())),
        ("J", list(jump)),
        ("L", list(local)),
        ("R", list(remote)),
        ("D", list(dynamic)),
        ("W", list(stdio)),
        ("w", list(tunnel)),
        ("sub", subsystem),
        ("tool", tool.map(|tool| tool.as_bytes().to_vec())),
        ("runs", command),
        ("S", control_path),
        ("O", control_command),
        ("shared", multiplexed.then(|| b"yes".to_vec())),
        ("via", via),
    ];
    all.into_iter().fold(route.to_owned(), |mut told, (name, value)| {
        let _ = value.map(|value| write!(told, " {name}={}", text(&value)));
        told
    })
}

#[test]
fn a_command_line_means_what_its_program_makes_of_it() {
    let wrong: Vec<_> = cases()
        .map(|(line, wanted)| (line, wanted, told(line)))
        .filter(|(_, wanted, found)| wanted != found)
        .map(|(line, wanted, found)| format!("{line}\n    wanted {wanted}\n    found  {found}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases().count() >= 160);
}

#[test]
fn every_route_and_every_tool_is_among_the_cases() {
    for route in Route::ALL {
        assert!(cases().any(|(_, wanted)| wanted.split(' ').next() == Some(route.name())), "{route:?}");
    }
    let is_told = |tool: &str| {
        cases().any(|(_, wanted)| wanted.split(' ').any(|word| word.strip_prefix("tool=") == Some(tool)))
    };
    for tool in TOOLS {
        assert!(is_told(tool), "{tool}");
    }
    assert!(TOOLS.is_sorted() && tool::names().all(|tool| TOOLS.contains(&tool)));
}

/// Options by which `ssh -G` would do more than tell, or which OpenSSH reads otherwise before 9.4.
const NOT_ASKED: [&str; 4] = ["-V", "-Q", "-E", "-P"];

#[test]
fn the_installed_ssh_reads_these_command_lines_alike() {
    let name = "ssh::tests::the_installed_ssh_reads_these_command_lines_alike";
    if Command::new("ssh").arg("-V").output().is_err() {
        return not_run::not_run(name, "there is no ssh");
    }
    let clients = cases().flat_map(|(line, _)| line.split(" > ")).map(process);
    let is_asked = |arg: &Vec<u8>| !NOT_ASKED.iter().any(|option| option.as_bytes() == arg);
    let asked =
        clients.filter(|p| p.args.first().is_some_and(|arg| arg == b"ssh") && p.args.iter().all(is_asked));
    let mut count = 0;
    for process in asked.filter(|process| process.args.len() > 1) {
        count += 1;
        let theirs = ask_ssh(&process).unwrap_or_else(|why| panic!("{}: {why}", shown(&process)));
        compare(&process, &meaning(&process, &[]).unwrap(), &theirs);
    }
    assert!(count >= 110, "{count}");
}

/// How many senseless command lines are tried; ssh takes a third of them.
const TRIES: usize = 300;

/// Words of which they are made.
const WORDS: &[&str] = &[
    "web1",
    "alice@web1",
    "a@b@web1",
    "ssh://bob@web1:2200",
    "ssh://web1",
    "--",
    "-",
    "-l",
    "carol",
    "-lcarol",
    "-p",
    "2222",
    "-p22",
    "-J",
    "bastion",
    "-Ja,b:22",
    "-N",
    "-vN",
    "-tt",
    "-MS/tmp/cm",
    "-S",
    "none",
    "/tmp/cm",
    "-M",
    "-L1:h:2",
    "8080:db1:80",
    "-R1080",
    "-D1080",
    "1080",
    "-Wdb1:22",
    "db1:22",
    "-w",
    "-w1:2",
    "0:1",
    "-o",
    "-oPort=23",
    "-oPort 24",
    "user=dave",
    "-ouser \"da ve\"",
    "-oUser='eve'",
    "ProxyJump=c",
    "-oproxyjump none",
    "-oProxyCommand=nc %h %p",
    "-oHostName=%h.example",
    "-oHostName = 10.0.0.1",
    "-oControlMaster=auto",
    "ControlMaster=no",
    "-oControlPath=/tmp/x",
    "-oControlPath none",
    "-oLocalForward=1 h:2",
    "-oRemoteForward=3 h:4",
    "-oRemoteForward 5",
    "-oDynamicForward=6",
    "-oClearAllForwardings=yes",
    "-oClearAllForwardings=no",
    "-oTunnel=no",
    "-oTunnel=ethernet",
    "-oTunnelDevice=7:8",
    "-i",
    "key",
    "-F",
    "/dev/null",
    "-4",
    "-C",
    "-g",
    "-e",
    "-enone",
    "ls",
    "-l",
    "-c",
    "-b",
    "-T",
    "-oSendEnv=X",
    "-oLogLevel=QUIET",
    "-s",
    "-oPort = 25",
    "-oPort\t26",
    "-o Port=27",
    "-oPort=\"28\"",
    "-NL8081:h:2",
    "-R9000:h:3000",
    "-L/tmp/s:/run/t",
];

#[test]
fn the_installed_ssh_reads_senseless_command_lines_alike() {
    let name = "ssh::tests::the_installed_ssh_reads_senseless_command_lines_alike";
    if Command::new("ssh").arg("-V").output().is_err() {
        return not_run::not_run(name, "there is no ssh");
    }
    // xorshift64: the same in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 20).unwrap() % limit
    };
    let mut count = 0;
    for _ in 0..TRIES {
        let words = (0..=below(6)).map(|_| WORDS[below(WORDS.len())].as_bytes().to_vec()).collect::<Vec<_>>();
        let args = [vec![b"ssh".to_vec()], words].concat();
        let process = Process { args, ..process("ssh") };
        // What ssh refuses never gets a connection.
        if let Ok(theirs) = ask_ssh(&process) {
            compare(&process, &meaning(&process, &[]).unwrap(), &theirs);
            count += 1;
        }
    }
    assert!(count >= TRIES / 5, "{count}");
}

/// What `ssh -G` says, by keyword.
///
/// # Errors
/// Why ssh refuses.
fn ask_ssh(process: &Process) -> Result<BTreeMap<String, Vec<String>>, String> {
    let args = process.args.iter().skip(1).map(|arg| text(arg));
    let output = Command::new("ssh").args(["-F", "/dev/null", "-G"]).args(args).output().unwrap();
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, text(&output.stderr)));
    }
    let mut told = BTreeMap::<_, Vec<_>>::new();
    for line in text(&output.stdout).lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        told.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    Ok(told)
}

fn shown(process: &Process) -> String {
    text(&process.args.join(&b' '))
}

fn compare(process: &Process, ours: &Meaning, theirs: &BTreeMap<String, Vec<String>>) {
    let shown = shown(process);
    let all = |key: &str| theirs.get(key).cloned().unwrap_or_default();
    let one = |key: &str| all(key).first().cloned().unwrap_or_default();
    let host = ours.host.as_deref().map(text).unwrap();
    // A number alone is an address, which ssh writes out.
    if host.parse::<u32>().is_err() {
        assert_eq!(host.to_lowercase(), one("hostname").to_lowercase(), "{shown}");
    }
    if let Some(login) = &ours.login {
        assert_eq!(text(login), one("user"), "{shown}");
    } else {
        assert!(
            !shown.contains('@') || ours.target.as_deref().is_some_and(|to| !to.contains(&b'@')),
            "{shown}"
        );
    }
    assert_eq!(ours.port.unwrap_or(22).to_string(), one("port"), "{shown}");
    let bare = |hops: String| hops.replace(['[', ']'], "");
    assert_eq!(bare(text(&ours.jump.join(&b','))), bare(one("proxyjump")), "{shown}");
    let path = ours.control_path.as_deref().map(text).unwrap_or_default();
    if !path.starts_with('~') && !path.contains('%') {
        assert_eq!(path, one("controlpath"), "{shown}");
    }
    let is_master = one("controlmaster") != "false";
    // A path of `none` is not told.
    assert!(ours.multiplexed == is_master || (is_master && path.is_empty()), "{shown}");
    let Forwards { local, remote, dynamic, stdio: _, tunnel } = &ours.forwards;
    // 9.2 tells a local forward of a socket as a dynamic one too.
    let is_typed = |to: &String| !local.iter().any(|typed| text(typed).starts_with(&format!("{to}:")));
    let theirs_dynamic: Vec<_> = all("dynamicforward").into_iter().filter(is_typed).collect();
    assert_eq!(ends(local), told_ends(&all("localforward")), "{shown}");
    assert_eq!(ends(remote), told_ends(&all("remoteforward")), "{shown}");
    assert_eq!(ends(dynamic), told_ends(&theirs_dynamic), "{shown}");
    let is_open = one("tunnel") != "false" && one("clearallforwardings") != "yes";
    assert_eq!(!tunnel.is_empty(), is_open, "{shown}");
    if is_open && all("tunneldevice").len() == 1 {
        let devices = text(&tunnel.concat());
        let whole = if devices.contains(':') { devices } else { format!("{devices}:any") };
        assert_eq!(whole, one("tunneldevice"), "{shown}");
    }
}

/// Both ends of forwards, in parts: brackets are written where they need not be.
fn ends(forwards: &[Vec<u8>]) -> Vec<Vec<String>> {
    forwards.iter().map(|typed| parts(&text(typed))).collect()
}

fn told_ends(forwards: &[String]) -> Vec<Vec<String>> {
    forwards.iter().map(|told| parts(&told.replace(" [socks]:0", ""))).collect()
}

fn parts(forward: &str) -> Vec<String> {
    forward.replace(['[', ']'], "").split([':', ' ']).map(str::to_owned).collect()
}

#[test]
fn a_server_and_a_client_are_known_by_the_kernels_word() {
    let named = |executable: &str, comm: &str, args: &str| Process {
        executable: (!executable.is_empty()).then(|| executable.as_bytes().to_vec()),
        comm: comm.as_bytes().to_vec(),
        args: line::words(args.as_bytes()),
        ..nobody()
    };
    let cases = [
        ("/usr/bin/ssh", "ssh", "ssh h", "client"),
        ("/usr/bin/ssh", "innocent", "innocent", "client"),
        ("/usr/bin/innocent", "ssh", "ssh h", "neither"),
        ("", "ssh", "ssh h", "client"),
        ("", "sshd-session", "'sshd-session: alice@pts/0'", "server"),
        ("/usr/lib/openssh/sshd-session", "x", "x", "server"),
        ("/nix/store/x/bin/.ssh-wrapped", ".ssh-wrapped", "ssh h", "client"),
        ("/usr/sbin/dropbear", "dropbear", "dropbear -F", "server"),
        ("/usr/sbin/dropbear", "dropbear", "x", "server"),
        ("/usr/sbin/dropbear", "ssh", "/usr/bin/ssh h", "client"),
        ("/usr/sbin/dropbear", "scp", "scp f h:", "neither"),
        ("/usr/bin/dropbearmulti", "x", "ssh h", "client"),
        ("/usr/bin/dropbearmulti", "x", "/usr/sbin/dropbear -F", "server"),
        ("/usr/bin/dropbearmulti", "x", "dropbearmulti dbclient h", "client"),
        ("/usr/bin/dropbearmulti", "x", "dropbearkey -f k", "neither"),
        ("/usr/bin/dropbearmulti", "x", "", "neither"),
        ("/usr/bin/sshpass", "sshpass", "sshpass -p x ssh h", "neither"),
        ("/usr/bin/puttygen", "puttygen", "puttygen k", "neither"),
        ("/usr/bin/scp", "scp", "scp f h:", "neither"),
        ("/usr/bin/pscp", "pscp", "pscp f h:", "client"),
    ];
    for (executable, comm, args, wanted) in cases {
        let process = named(executable, comm, args);
        let found = match (is_client(&process), is_server(&process)) {
            (true, false) => "client",
            (false, true) => "server",
            (false, false) => "neither",
            (true, true) => "both",
        };
        assert_eq!(found, wanted, "{executable} {comm} {args}");
    }
}

#[test]
fn what_a_title_says() {
    let title = |role, user: &'static str, tty: &'static str| {
        let some = |text: &'static str| (!text.is_empty()).then_some(text.as_bytes());
        Some(Title { role, user: some(user), tty: some(tty) })
    };
    let cases = [
        ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", title(Role::Listener, "", "")),
        ("sshd: sshd: /usr/sbin/sshd [listener] 1 of 10-100 startups", title(Role::Listener, "", "")),
        ("sshd: [accepted]", title(Role::Preauth, "", "")),
        ("sshd: [net]", title(Role::Preauth, "", "")),
        ("sshd-session: [rexeced]", title(Role::Preauth, "", "")),
        ("sshd-auth: [session-auth early]", title(Role::Preauth, "", "")),
        ("sshd-auth: [session-auth]", title(Role::Preauth, "", "")),
        ("sshd: alice [net]", title(Role::Preauth, "alice", "")),
        ("sshd: alice [pam]", title(Role::Preauth, "alice", "")),
        ("sshd-auth: alice [net]", title(Role::Preauth, "alice", "")),
        ("sshd: unknown [net]", title(Role::Preauth, "", "")),
        ("sshd: unknown [priv]", title(Role::Monitor, "", "")),
        ("sshd: alice [priv]", title(Role::Monitor, "alice", "")),
        ("sshd-session: alice@corp.example [priv]", title(Role::Monitor, "alice@corp.example", "")),
        ("sshd: alice", title(Role::Session, "alice", "")),
        ("sshd: alice@corp.example", title(Role::Session, "alice@corp.example", "")),
        ("sshd: alice@notty", title(Role::Session, "alice", "notty")),
        ("sshd: alice@pts/0", title(Role::Session, "alice", "pts/0")),
        ("sshd: alice@pts/0,pts/12", title(Role::Session, "alice", "pts/0,pts/12")),
        ("sshd-session: alice@corp.example@pts/0", title(Role::Session, "alice@corp.example", "pts/0")),
        ("sshd: alice@pts/0    ", title(Role::Session, "alice", "pts/0")),
        ("sshd: [listener] 0 of x startups", title(Role::Session, "[listener] 0 of x startups", "")),
        ("sshd: a: b@notty", title(Role::Session, "a: b", "notty")),
        ("sshd: ", title(Role::Session, "", "")),
        ("sshd", None),
        ("sshd:", None),
        ("/usr/sbin/sshd -D", None),
        ("bash: alice@pts/0", None),
        ("ssh: /tmp/cm [mux]", None),
    ];
    for (said, wanted) in cases {
        assert_eq!(parse_title(&[said.as_bytes().to_vec()]), wanted, "{said}");
    }
    let odd = [b"sshd: \xff\x1b[2J@pts/1".to_vec()];
    assert_eq!(parse_title(&odd).and_then(|title| title.user), Some(&b"\xff\x1b[2J"[..]));
    assert_eq!(parse_title(&[b"sshd: alice".to_vec(), b"-D".to_vec()]), None);
    assert_eq!(parse_title(&[b"sshd: alice".to_vec(), Vec::new()]), title(Role::Session, "alice", ""));
    assert_eq!(parse_title(&[]), None);
}

#[test]
fn a_masters_title_holds_its_path() {
    let path = |said: &str| mux_title(&[said.as_bytes().to_vec()]).map(text);
    assert_eq!(path("ssh: /tmp/a b [mux]"), Some("/tmp/a b".to_owned()));
    assert_eq!(path("ssh: /tmp/cm [mux]  "), Some("/tmp/cm".to_owned()));
    assert_eq!(path("ssh: [mux]"), None);
    assert_eq!(path("ssh: /tmp/cm"), None);
    assert_eq!(path("vi: /tmp/cm [mux]"), None);
}

#[test]
fn what_was_typed_is_kept_within_bounds() {
    let mut typed = process("ssh web1");
    for number in 0..200 {
        typed.args.push(format!("-L{number}:h:1").into_bytes());
    }
    typed.args.extend([b"-J".to_vec(), b"a,".repeat(300), b"-oHostName=".to_vec()]);
    typed.args.push([&b"-oHostName="[..], &b"%h".repeat(2000)].concat());
    let found = meaning(&typed, &[]).unwrap();
    assert_eq!((found.forwards.local.len(), found.jump.len()), (64, 64));
    assert!(found.host.unwrap().len() < 4096);
}

proptest! {
    /// Words that are near to what is read, among any other.
    #[test]
    fn no_arguments_break_it(
        program in "ssh|dbclient|plink|pscp|psftp|putty|sshd|dropbearmulti|sh|python3|nc|git",
        above in "ssh|dbclient|plink|sshd|bash|perl|scp",
        args in vec(vec(prop_oneof![any::<u8>(), "[-oJLW:@,=%\\[\\]/. \"'\\\\]".prop_map(|s| s.as_bytes()[0])], 0..12), 0..8),
    ) {
        let named = |name: &str| Process { args: args.clone(), ..process(name) };
        let ancestry = [Arc::new(named(&above)), Arc::new(named("ssh"))];
        let owner = named(&program);
        let _ = (route(&owner, &ancestry), parse_title(&args), mux_title(&args));
        if let Some(found) = meaning(&owner, &ancestry) {
            prop_assert!(found.destination.is_none_or(|host| !host.is_empty()));
            prop_assert!(found.tool.is_none_or(|tool| TOOLS.contains(&tool)));
        }
    }
}
