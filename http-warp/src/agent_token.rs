//! Agent tokens: who a host is, and issuing and revoking by hand.

use enlist_core::wire::IssueAgentToken;
use http::{Method, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json, no_content};
use crate::request::id;
use crate::resource::{AdminCall, AgentCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    who_am_i(api).or(agent_tokens(api)).unify().or(agent_token(api)).unify().boxed()
}

fn who_am_i(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn read(call: AgentCall, (): ()) -> Answer {
        Ok(json(StatusCode::OK, &call.agent().who_am_i()))
    }
    Resource::new(api, "/v1/agent/self").agent(Method::GET, read).at(warp::path!("agent" / "self").map(|| ()))
}

fn agent_tokens(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn issue(mut call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let request: IssueAgentToken = call.json_or_default().await?;
        Ok(json(StatusCode::CREATED, &call.admin().issue_agent_token(host_id, request).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/tokens")
        .admin(Method::POST, issue)
        .at(warp::path!("hosts" / String / "tokens"))
}

fn agent_token(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn revoke(call: AdminCall, (host_id, token_id): (String, String)) -> Answer {
        call.admin().revoke_agent_token(id(&host_id)?, id(&token_id)?).await?;
        Ok(no_content())
    }
    Resource::new(api, "/v1/hosts/{host_id}/tokens/{token_id}")
        .admin(Method::DELETE, revoke)
        .at(warp::path!("hosts" / String / "tokens" / String).map(|host_id, token_id| (host_id, token_id)))
}
