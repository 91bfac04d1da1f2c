//! What has to hold in every state, and what has to be possible at all.

use std::collections::BTreeSet;

use enlist_core::agent_token::{AgentTokenState, Origin};
use stateright::Property;

use crate::config::Config;
use crate::quiet::Quiet;
use crate::world::{Protocol, World};

/// An install token never buys two credentials that live.
pub const ONE_CREDENTIAL: &str = "one live credential of an install token";
/// At most one Active and one Pending token in a lineage.
pub const ONE_OF_EACH: &str = "at most one active and one pending";
/// Final states stay as they are.
pub const FINAL_STAYS: &str = "final states stay";
/// The token in use stays in use until its successor is used.
pub const KEEPS_WORKING: &str = "the token in use works until the next one does";
/// An honest holder gets back in.
pub const BACK_IN: &str = "an honest holder gets back in, without an alarm";
/// An honest holder can rotate.
pub const ROTATES: &str = "an honest holder can complete a rotation in the end";
/// Nobody is accused for nothing.
pub const NO_FALSE_ALARM: &str = "no alarm about an honest holder";
/// Of two holders, who was first is served.
pub const WINNER_SERVED: &str = "who completed a rotation first stays served";
/// Of two holders, who was not first is refused.
pub const LOSER_REFUSED: &str = "the other is not served any more";
/// Of two holders, who was not first is noticed.
pub const LOSER_NOTICED: &str = "the alarm comes when the other speaks after the grace";
/// Two holders do not lock each other out.
pub const BOTH_SERVED: &str = "both get back in until one has completed a rotation";
/// An install token is one claim's.
pub const ONE_BUYER: &str = "one claim buys";
/// The server shows a secret before its first use only.
pub const SHOWN_UNUSED: &str = "no secret in use is shown";

/// Within how many requests of the loser the alarm comes. One does not do: a proposal that was accepted once, and whose
/// successor both holders have, is answered 200 again; and a successor that the server never heard of is unknown to it.
/// Where tokens expire, that successor may be refused as expired before it is proposed from.
const LOSER_REQUESTS: usize = 2;

/// The properties of a configuration.
pub fn of(config: &Config) -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::always(ONE_CREDENTIAL, |_, world: &World| has_one_credential(world)),
        Property::always(ONE_OF_EACH, |_, world: &World| has_one_of_each(world)),
        Property::always(ONE_BUYER, |_, world: &World| !world.bought_twice),
        Property::always(SHOWN_UNUSED, |_, world: &World| !world.shown_in_use),
        Property::always(FINAL_STAYS, |_, world: &World| !world.server.rewritten),
        Property::always(KEEPS_WORKING, |_, world: &World| keeps_working(world)),
    ];
    if config.cast.is_copied() {
        properties.extend([
            Property::always(WINNER_SERVED, |model: &Protocol, world| {
                world.winner.is_none_or(|winner| ahead(model, world, winner, |mut quiet| quiet.is_served()))
            }),
            Property::always(LOSER_REFUSED, |_, world: &World| !world.loser_served),
            Property::always(LOSER_NOTICED, |model: &Protocol, world: &World| {
                let noticed = |quiet: Quiet<'_>| {
                    let most = LOSER_REQUESTS + usize::from(model.config.expires);
                    quiet.after_grace().alarms_within(most)
                };
                // Whoever repeats the right key too late is told so, without an alarm: it may be the holder itself.
                let has_key_only =
                    |loser: usize| model.config.cast.is_server_made() && world.holders[loser].disk.credential.is_none();
                let is_told = |winner| has_key_only(1 - winner) || ahead(model, world, 1 - winner, noticed);
                world.server.alarms.any() || world.winner.is_none_or(is_told)
            }),
            Property::always(BOTH_SERVED, |model: &Protocol, world: &World| {
                let served = |holder| ahead(model, world, holder, |mut quiet| quiet.is_served());
                let is_enrolled = |holder: &usize| world.holders[*holder].disk.credential.is_some();
                world.winner.is_some() || (0..world.holders.len()).filter(is_enrolled).all(served)
            }),
        ]);
    } else {
        properties.extend([
            Property::always(NO_FALSE_ALARM, |_, world: &World| !world.server.alarms.any()),
            Property::always(BACK_IN, |model: &Protocol, world| {
                let served = |mut quiet: Quiet<'_>| quiet.is_served() && !quiet.alarms().any();
                ahead(model, world, 0, served) && ahead(model, world, 0, |quiet| served(quiet.after_grace()))
            }),
            Property::always(ROTATES, |model: &Protocol, world: &World| {
                ahead(model, world, 0, |mut quiet| quiet.rotates() && !quiet.alarms().any())
            }),
        ]);
    }
    properties.extend(possible(config));
    properties
}

/// What has to be possible: a search that never sees it proves little.
fn possible(config: &Config) -> Vec<Property<Protocol>> {
    let mut properties = Vec::new();
    // With one secret there is nothing to rotate to.
    if config.secrets < 2 {
        return properties;
    }
    if config.cast.is_copied() {
        properties.extend([
            Property::sometimes("rotation_conflict", |_, world: &World| world.server.alarms.conflict),
            Property::sometimes("rotation.displaced", |_, world: &World| world.server.alarms.displaced),
            Property::sometimes("token_reuse_detected", |_, world: &World| world.server.alarms.reuse),
            Property::sometimes("the copy comes first", |_, world: &World| world.winner == Some(1)),
        ]);
    } else {
        properties.extend([
            Property::sometimes("a rotation is completed", |_, world: &World| {
                has_active(world, |origin| matches!(origin, Origin::Proposed { .. }))
            }),
            Property::sometimes("a crash leaves a retired token on the disk", |_, world: &World| {
                has_retired_on_disk(world)
            }),
        ]);
    }
    if config.acts > 0 {
        properties.extend([
            Property::sometimes("a proposal is held up", |_, world: &World| {
                world.holders[0].memory.keyring.as_ref().is_some_and(|keyring| keyring.is_held_up())
            }),
            Property::sometimes("an administrator's token is taken", |_, world: &World| {
                has_active(world, |origin| matches!(origin, Origin::Rotated { .. }))
            }),
            Property::sometimes("an administrator's token yields", |_, world: &World| {
                world.server.tokens.values().any(|token| {
                    matches!((&token.origin, token.state), (Origin::Rotated { .. }, AgentTokenState::Displaced { .. }))
                })
            }),
        ]);
    }
    properties
}

/// Whether a quiet continuation ends well; asked in quiet states.
fn ahead(model: &Protocol, world: &World, holder: usize, ends_well: impl Fn(Quiet<'_>) -> bool) -> bool {
    !world.is_quiet() || ends_well(Quiet::from(world, holder, &model.config))
}

fn has_one_credential(world: &World) -> bool {
    let live = || world.server.tokens.values().filter(|token| token.is_live());
    let lineages: BTreeSet<_> = live().map(|token| token.lineage_id).collect();
    lineages.len() <= 1 && live().filter(|token| matches!(token.origin, Origin::Exchange(_))).count() <= 1
}

fn has_one_of_each(world: &World) -> bool {
    let tokens = world.server.tokens.values();
    let active: Vec<_> = tokens
        .clone()
        .filter(|token| matches!(token.state, AgentTokenState::Active { .. }))
        .map(|token| token.lineage_id)
        .collect();
    let pending: Vec<_> =
        tokens.filter(|token| matches!(token.state, AgentTokenState::Pending)).map(|token| token.lineage_id).collect();
    [active, pending].iter().all(|lineages| lineages.iter().collect::<BTreeSet<_>>().len() == lineages.len())
}

fn keeps_working(world: &World) -> bool {
    let mut tokens = world.server.tokens.values();
    let is_unused = |origin: &Origin, state| matches!((origin, state), (Origin::Exchange(_), AgentTokenState::Pending));
    world.server.cut_off
        || tokens.clone().all(|token| is_unused(&token.origin, token.state))
        || tokens.any(|token| matches!(token.state, AgentTokenState::Active { .. }))
}

fn has_active(world: &World, by: impl Fn(&Origin) -> bool) -> bool {
    let mut tokens = world.server.tokens.values();
    tokens.any(|token| matches!(token.state, AgentTokenState::Active { .. }) && by(&token.origin))
}

fn has_retired_on_disk(world: &World) -> bool {
    let Some(credential) = &world.holders[0].disk.credential else { return false };
    let token = world.server.token(credential.current);
    token.is_some_and(|token| matches!(token.state, AgentTokenState::Retired { .. }))
}
