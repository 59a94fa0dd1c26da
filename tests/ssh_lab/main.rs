//! Who was really at the keyboard, shown on the real thing: hosts of the tests' own (`host.rs`) with real servers, real
//! users and real clients, a watcher on each. Every outbound connection of every host must be among those that a
//! scenario expects, and each is compared exactly; at the end it is counted how well the origins were told.
//! One more watch sees all hosts from outside, by sources that they cannot have (`outside.rs`): what it tells of them is held
//! against what they told themselves.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and tests own their clock and files"
)]

#[path = "../support/mod.rs"]
mod support;

/// What the watchers of these tests are told of their sources.
pub const SOURCES: &[&str] = &["--source", "netlink"];

mod check;
mod failures;
mod forwards;
mod host;
mod jobs;
mod masters;
mod net;
mod newer;
mod outside;
mod paths;
mod shells;
mod talk;
mod tools;

/// Each scenario is a test; together they know how many they are.
macro_rules! scenarios {
    ($($name:ident: $run:expr;)*) => {
        const ALL: usize = [$(stringify!($name)),*].len();
        $(
            #[test]
            fn $name() {
                check::scenario(stringify!($name), ALL, || $run);
            }
        )*
    };
}

use host::Logins::{Audited, Bare, Scoped};

scenarios! {
    a_shell_and_then_ssh: shells::then_ssh(Audited);
    a_shell_and_then_ssh_where_sshd_has_no_pam: shells::then_ssh(Bare);
    a_command_that_is_an_ssh: shells::command(Audited);
    an_origin_may_be_an_address_of_ipv6: shells::ipv6();
    the_nearest_login_is_the_origin: shells::nearest();
    sudo_changes_the_user_and_not_the_origin: shells::sudo();
    su_changes_the_user_and_not_the_origin: shells::su();
    a_login_as_root_is_one_process_of_sshd: shells::root();
    a_login_at_a_terminal_is_local: shells::local_tty();
    a_terminal_that_nothing_is_known_of_is_unknown: shells::terminal();

    a_client_that_left_its_login_is_told_by_the_audit_session: jobs::set_apart(Audited, "audit_session");
    a_client_that_left_its_login_is_told_by_the_scope: jobs::set_apart(Scoped, "cgroup_session");
    a_client_that_left_its_login_is_told_by_its_environment: jobs::set_apart(Bare, "environment");
    a_job_that_outlives_its_login_is_remembered_by_its_process_session: jobs::outlives(Bare, "remembered");
    a_job_that_outlives_its_login_is_remembered_by_the_audit_session: jobs::outlives(Audited, "audit_session");
    a_job_that_outlives_its_login_is_remembered_by_the_scope: jobs::outlives(Scoped, "cgroup_session");
    tmux_outlives_its_login: jobs::tmux(Audited, "audit_session");
    cron_is_cron: jobs::cron();
    a_service_is_a_service: jobs::grouped("system.slice/backup.service", "service");
    a_container_is_a_container: jobs::grouped(&format!("docker/{}", "3f1c2d4e".repeat(8)), "container");
    tmux_is_of_the_login_that_started_it: jobs::tmux_attached();
    tmux_outlives_its_login_where_nothing_but_its_environment_tells: jobs::tmux(Bare, "environment");

    a_jump_is_opened_by_the_bastion_for_the_very_client: forwards::jump();
    two_jumps_are_opened_one_by_each_host_on_the_way: forwards::two_jumps();
    a_local_forward_is_opened_by_the_server_for_its_client: forwards::local();
    a_socks_forward_is_opened_by_the_server_for_its_client: forwards::dynamic();
    a_remote_forward_is_opened_by_the_client: forwards::remote();
    a_proxy_command_owns_the_socket_and_ssh_is_its_parent: forwards::proxy_command();
    what_is_no_ssh_is_not_called_ssh: forwards::no_ssh();
    an_ssh_on_any_port_is_followed_and_nothing_else_there: forwards::anywhere();

    three_sessions_on_one_master_have_each_its_own_origin: masters::three_sessions();

    scp_has_its_name: tools::scp();
    sftp_has_its_name: tools::sftp();
    rsync_has_its_name: tools::rsync();
    git_has_its_name: tools::git();
    autossh_has_its_name: tools::autossh();
    dropbears_client_is_a_client: tools::dbclient();
    dropbears_server_is_a_server: tools::dropbear();

    a_refused_port_has_an_origin: failures::refused();
    a_wrong_password_is_a_connection: failures::wrong_password();
    a_wrong_key_is_a_connection: failures::wrong_key();

    openssh_in_three_programs_shell_and_then_ssh: newer::then_ssh(Audited);
    openssh_in_three_programs_without_pam: newer::then_ssh(Bare);
    openssh_in_three_programs_jump: newer::jump();

    the_way_through_four_hosts_is_one: paths::four_hosts();
    the_way_of_jumps_is_one: paths::jumps();
    what_a_connection_carried_is_told_of_it: paths::forwards();
}
