//! Install tokens: the public exchange, minting, listing and taking back.

use enlist_core::fleet::TokenFilter;
use enlist_core::wire::{ExchangeRequest, MintInstallToken};
use http::{Method, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json, no_content};
use crate::request::id;
use crate::resource::{AdminCall, PublicCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    exchange(api)
        .or(install_tokens(api))
        .unify()
        .or(tenant_install_tokens(api))
        .unify()
        .or(install_token(api))
        .unify()
        .boxed()
}

fn exchange(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn exchange(mut call: PublicCall, (): ()) -> Answer {
        let idempotency_key = call.idempotency_key().await?;
        let mut request: ExchangeRequest = call.json().await?;
        request.idempotency_key = idempotency_key;
        Ok(json(StatusCode::OK, &call.fleet.enrol(request, call.address).await?))
    }
    Resource::new(api, "/v1/install-tokens/exchange")
        .public(Method::POST, exchange)
        .at(warp::path!("install-tokens" / "exchange").map(|| ()))
}

fn install_tokens(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let (filter, call) = call.query::<TokenFilter>().await?;
        Ok(json(StatusCode::OK, &call.admin().list_install_tokens(host_id, filter).await?))
    }
    async fn mint(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let mut call = call.no_query().await?;
        let request: MintInstallToken = call.json_or_default().await?;
        Ok(json(StatusCode::CREATED, &call.admin().mint_install_token(host_id, request).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/install-tokens")
        .admin(Method::GET, list)
        .admin(Method::POST, mint)
        .at(warp::path!("hosts" / String / "install-tokens"))
}

fn tenant_install_tokens(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, tenant_id: String) -> Answer {
        let tenant_id = id(&tenant_id)?;
        let (filter, call) = call.query::<TokenFilter>().await?;
        Ok(json(StatusCode::OK, &call.admin().list_tenant_install_tokens(tenant_id, filter).await?))
    }
    async fn mint(call: AdminCall, tenant_id: String) -> Answer {
        let tenant_id = id(&tenant_id)?;
        let mut call = call.no_query().await?;
        let request: MintInstallToken = call.json_or_default().await?;
        Ok(json(StatusCode::CREATED, &call.admin().mint_tenant_install_token(tenant_id, request).await?))
    }
    Resource::new(api, "/v1/tenants/{tenant_id}/install-tokens")
        .admin(Method::GET, list)
        .admin(Method::POST, mint)
        .at(warp::path!("tenants" / String / "install-tokens"))
}

fn install_token(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn revoke(call: AdminCall, token_id: String) -> Answer {
        let token_id = id(&token_id)?;
        let call = call.no_query().await?;
        call.admin().revoke_install_token(token_id).await?;
        Ok(no_content())
    }
    Resource::new(api, "/v1/install-tokens/{token_id}")
        .admin(Method::DELETE, revoke)
        .at(warp::path!("install-tokens" / String))
}
