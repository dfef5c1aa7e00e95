# syntax=docker/dockerfile:1
ARG NODE_VERSION=22

FROM node:${NODE_VERSION}-bookworm-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY tsconfig.json openapi.json ./
COPY scripts ./scripts
COPY src ./src
RUN node scripts/build.mjs && rm -f dist/*.map dist/main.js

# What the bundle leaves outside, and nothing else.
FROM node:${NODE_VERSION}-bookworm-slim AS modules
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:${NODE_VERSION}-bookworm-slim
LABEL org.opencontainers.image.title="Gvnr" \
      org.opencontainers.image.description="Spend authority for AI agents" \
      org.opencontainers.image.licenses="MIT"
ENV NODE_ENV=production \
    HOST=0.0.0.0 \
    PORT=8787 \
    DATA_DIR=/data \
    RGF_JOURNAL_DIR=/data/journal
WORKDIR /app
COPY --from=modules /build/node_modules ./node_modules
COPY --from=build /build/dist ./dist
COPY package.json LICENSE ./
COPY migrations ./migrations
COPY packaging/healthcheck.mjs ./packaging/healthcheck.mjs
# The embedded database is all that is ever written; with DATABASE_URL the file system may be read-only.
RUN mkdir /data && chown node:node /data
VOLUME /data
USER node
EXPOSE 8787
# Fifteen seconds: the server finishes what is under way after SIGTERM, which node, as process 1, gets itself.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["node", "packaging/healthcheck.mjs"]
ENTRYPOINT ["node", "dist/cli.js"]
CMD ["start"]
