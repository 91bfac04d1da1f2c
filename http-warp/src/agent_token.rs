//! Agent tokens: who a host is, its rotation, and what administrators do with tokens.

use enlist_core::fleet::TokenFilter;
use enlist_core::wire::{IssueAgentToken, ProposeAgentToken, RotateAgentToken};
use http::{Method, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json, no_content};
use crate::request::id;
use crate::resource::{AdminCall, AgentCall, PublicCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    who_am_i(api)
        .or(propose(api))
        .unify()
        .or(agent_tokens(api))
        .unify()
        .or(agent_token(api))
        .unify()
        .or(rotation(api))
        .unify()
        .boxed()
}

fn who_am_i(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn read(call: AgentCall, (): ()) -> Answer {
        Ok(json(StatusCode::OK, &call.agent().who_am_i()))
    }
    Resource::new(api, "/v1/agent/self").any_credential(Method::GET, read).at(warp::path!("agent" / "self").map(|| ()))
}

fn propose(api: &Routes) -> BoxedFilter<(Response,)> {
    // Public: who presents what, and for how long after its end, is the rotation table's to judge.
    async fn propose(mut call: PublicCall, (): ()) -> Answer {
        let bearer = call.bearer().await?;
        let key = call.idempotency_key().await?;
        let request: ProposeAgentToken = call.json_or_default().await?;
        Ok(json(StatusCode::OK, &call.fleet.propose_agent_token(&bearer, &request, key.as_ref()).await?))
    }
    Resource::new(api, "/v1/agent/token/rotate")
        .public(Method::POST, propose)
        .at(warp::path!("agent" / "token" / "rotate").map(|| ()))
}

fn agent_tokens(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let (filter, call) = call.query::<TokenFilter>().await?;
        Ok(json(StatusCode::OK, &call.admin().list_agent_tokens(host_id, filter).await?))
    }
    async fn issue(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let mut call = call.no_query().await?;
        let request: IssueAgentToken = call.json_or_default().await?;
        Ok(json(StatusCode::CREATED, &call.admin().issue_agent_token(host_id, request).await?))
    }
    async fn revoke_all(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(json(StatusCode::OK, &call.admin().revoke_agent_tokens(host_id).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/tokens")
        .admin(Method::GET, list)
        .admin(Method::POST, issue)
        .admin(Method::DELETE, revoke_all)
        .at(warp::path!("hosts" / String / "tokens"))
}

fn agent_token(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn revoke(call: AdminCall, (host_id, token_id): (String, String)) -> Answer {
        let (host_id, token_id) = (id(&host_id)?, id(&token_id)?);
        let call = call.no_query().await?;
        call.admin().revoke_agent_token(host_id, token_id).await?;
        Ok(no_content())
    }
    Resource::new(api, "/v1/hosts/{host_id}/tokens/{token_id}")
        .admin(Method::DELETE, revoke)
        .at(warp::path!("hosts" / String / "tokens" / String).map(|host_id, token_id| (host_id, token_id)))
}

fn rotation(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn rotate(call: AdminCall, (host_id, token_id): (String, String)) -> Answer {
        let (host_id, token_id) = (id(&host_id)?, id(&token_id)?);
        let mut call = call.no_query().await?;
        let request: RotateAgentToken = call.json().await?;
        Ok(json(StatusCode::CREATED, &call.admin().rotate_agent_token(host_id, token_id, request).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/tokens/{token_id}/rotate")
        .admin(Method::POST, rotate)
        .at(warp::path!("hosts" / String / "tokens" / String / "rotate").map(|host_id, token_id| (host_id, token_id)))
}
