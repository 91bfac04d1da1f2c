//! The programs as their users run them: processes, sockets, files and signals.

mod accept;
mod actors;
mod admin_token;
mod administration;
mod catch_up;
mod crash;
mod credentials;
mod demo;
mod events;
mod liveness;
mod postgres;
mod readme;
mod secrets;
mod support;
