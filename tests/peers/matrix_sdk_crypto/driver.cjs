// A device with the crypto machine of matrix-sdk-crypto, in memory: `node driver.cjs USER DEVICE`.
//
// It uses the protocol that tests/peers/peer.py describes: lines of JSON for calls and for HTTP requests. The machine
// receives each to-device event separately.

"use strict";

const { createInterface } = require("node:readline");
const sdk = require("@matrix-org/matrix-sdk-crypto-wasm");

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const [userId, deviceId] = process.argv.slice(2);
const rooms = new Map(); // By room id: the members, and the content of m.room.encryption.
const trust = () => new sdk.DecryptionSettings(sdk.TrustRequirement.Untrusted); // Each call consumes one.
let machine, since;
let strategy = () => sdk.CollectStrategy.allDevices(); // The devices that get room keys.

const methods = () => Object.values(sdk.VerificationMethod).filter((method) => typeof method === "number");
const users = (names) => names.map((name) => new sdk.UserId(name));
const write = (value) => process.stdout.write(JSON.stringify(value) + "\n");

async function read() {
    const { value, done } = await lines.next();
    if (done) process.exit(0);
    return JSON.parse(value);
}

async function ask(method, path, body = {}) {
    write({ request: { method, path: `/_matrix/client/v3/${path}`, body } });
    const { status, body: answer } = await read();
    if (status !== 200) throw { code: status === null ? "lost" : "refused", message: `${method} ${path}: ${status}` };
    return answer;
}

async function send(request) {
    const [method, path] = {
        [sdk.RequestType.KeysUpload]: ["POST", "keys/upload"],
        [sdk.RequestType.KeysQuery]: ["POST", "keys/query"],
        [sdk.RequestType.KeysClaim]: ["POST", "keys/claim"],
        [sdk.RequestType.ToDevice]: ["PUT", `sendToDevice/${request.event_type}/${request.txn_id}`],
        [sdk.RequestType.KeysBackup]: ["PUT", `room_keys/keys?version=${request.version}`],
        [sdk.RequestType.SignatureUpload]: ["POST", "keys/signatures/upload"],
        [sdk.RequestType.RoomMessage]: ["PUT", `rooms/${request.room_id}/send/m.room.encrypted/${request.txn_id}`],
    }[request.type];
    let body = JSON.parse(request.body);
    if (request.type === sdk.RequestType.RoomMessage) {
        await shareKey(request.room_id);
        body = await calls.encrypt({ room: request.room_id, type: request.event_type, content: body });
    }
    const answer = await ask(method, path, body);
    if (request.id) await machine.markRequestAsSent(request.id, request.type, JSON.stringify(answer));
    return answer;
}

async function sendOutgoing() {
    for (const request of await machine.outgoingRequests()) await send(request);
}

// All verifications by id. The machine forgets finished ones.
const flows = new Map();

function followFlows() {
    const followed = [userId, ...[...rooms.values()].flatMap(({ members }) => [...members])];
    for (const user of new Set(followed)) {
        for (const request of machine.getVerificationRequests(new sdk.UserId(user))) flows.set(request.flowId, request);
    }
}

// Accepts a comparison of short strings that the other side begins, as the specification demands.
async function acceptStarted() {
    followFlows();
    for (const request of flows.values()) {
        const begun = request.getVerification();
        const accepted = begun instanceof sdk.Sas ? begun.accept() : undefined;
        if (accepted) await send(accepted);
    }
}

// Passes a verification event of a room to the machine.
async function receiveInRoom(room, event) {
    let { type, content } = event;
    if (type === "m.room.encrypted") {
        const decrypted = await calls.decrypt({ room, event }).catch(() => null);
        if (decrypted === null) return; // There is no key, or the event is not for this device.
        ({ type, content } = decrypted);
    }
    if (type.startsWith("m.key.verification.") || content.msgtype === "m.key.verification.request") {
        const shown = { ...event, room_id: room, type, content };
        await machine.receiveVerificationEvent(JSON.stringify(shown), new sdk.RoomId(room));
    }
}

// Claims one-time keys of the users' devices that have no session with us, or a broken one.
async function claim(names) {
    const request = await machine.getMissingSessions(users(names));
    if (request) await send(request);
}

// Shares the key of a room.
async function shareKey(room) {
    const { members, encryption } = rooms.get(room);
    await claim([...members]);
    const settings = new sdk.EncryptionSettings();
    settings.sharingStrategy = strategy();
    if (encryption.rotation_period_msgs) settings.rotationPeriodMessages = BigInt(encryption.rotation_period_msgs);
    const requests = await machine.shareRoomKey(new sdk.RoomId(room), users([...members]), settings);
    for (const request of requests) await send(request);
}

function follow(room, event) {
    if (!rooms.has(room)) rooms.set(room, { members: new Set(), encryption: {} });
    const { members } = rooms.get(room);
    if (event.type === "m.room.encryption") rooms.get(room).encryption = event.content;
    if (event.type !== "m.room.member") return;
    if (event.content.membership === "join") members.add(event.state_key);
    else members.delete(event.state_key);
}

const calls = {
    async sync() {
        const answer = await ask("GET", since ? `sync?since=${since}` : "sync");
        const { changed = [], left = [] } = answer.device_lists ?? {};
        const receive = (events, lists) =>
            machine.receiveSyncChanges(
                JSON.stringify(events),
                new sdk.DeviceLists(users(lists.changed), users(lists.left)),
                new Map(Object.entries(answer.device_one_time_keys_count)),
                new Set(answer.device_unused_fallback_key_types),
                trust(),
            );
        await receive([], { changed, left });
        for (const event of answer.to_device.events) await receive([event], { changed: [], left: [] });
        for (const [room, { timeline }] of Object.entries(answer.rooms.join)) {
            for (const event of timeline.events) follow(room, event);
            await machine.updateTrackedUsers(users([...rooms.get(room).members]));
            for (const event of timeline.events) await receiveInRoom(room, event);
        }
        since = answer.next_batch;
        await claim([]);
        await acceptStarted();
        await sendOutgoing();
    },

    async share({ room }) {
        await sendOutgoing();
        await shareKey(room);
    },

    async encrypt({ room, type, content }) {
        return JSON.parse(await machine.encryptRoomEvent(new sdk.RoomId(room), type, JSON.stringify(content)));
    },

    // Creates an identity, replacing any existing one. `auth` authenticates the user to the homeserver.
    async bootstrap({ auth }) {
        const requests = await machine.bootstrapCrossSigning(true);
        if (requests.uploadKeysRequest) await send(requests.uploadKeysRequest);
        const keys = JSON.parse(requests.uploadSigningKeysRequest.body);
        await ask("POST", "keys/device_signing/upload", { ...keys, auth });
        await ask("POST", "keys/signatures/upload", JSON.parse(requests.uploadSignaturesRequest.body));
    },

    async verify({ user }) {
        const identity = await machine.getIdentity(new sdk.UserId(user));
        await ask("POST", "keys/signatures/upload", JSON.parse((await identity.verify()).body));
    },

    async trust({ user, device: name }) {
        const identity = await machine.getIdentity(new sdk.UserId(user));
        const device = await machine.getDevice(new sdk.UserId(user), new sdk.DeviceId(name));
        return {
            known: identity !== undefined,
            master: identity && Object.values(JSON.parse(identity.masterKey).keys)[0],
            verified: identity?.isVerified() ?? false,
            violated: identity?.hasVerificationViolation() ?? false,
            signed: device?.isCrossSignedByOwner() ?? false,
            trusted: device?.isCrossSigningTrusted() ?? false,
        };
    },

    async seeds() {
        const seeds = await machine.exportCrossSigningKeys();
        return { master: seeds.masterKey, self_signing: seeds.self_signing_key, user_signing: seeds.userSigningKey };
    },

    // Creates a version of the backup, and uses it.
    async create_backup() {
        const key = sdk.BackupDecryptionKey.createRandomKey();
        const [encoded, public_key] = [key.toBase64(), key.megolmV1PublicKey.publicKeyBase64];
        const signatures = JSON.parse((await machine.sign(JSON.stringify({ public_key }))).asJSON());
        const algorithm = "m.megolm_backup.v1.curve25519-aes-sha2";
        await ask("POST", "room_keys/version", { algorithm, auth_data: { public_key, signatures } });
        await calls.use_backup({ key: encoded });
        return { key: encoded };
    },

    // Returns whether the current version of the backup is trusted; uses it with its decryption key.
    async use_backup({ key: encoded }) {
        const key = sdk.BackupDecryptionKey.fromBase64(encoded);
        const info = await ask("GET", "room_keys/version");
        const trusted = (await machine.verifyBackup(info)).trusted();
        await machine.enableBackupV1(key.megolmV1PublicKey.publicKeyBase64, info.version);
        await machine.saveBackupDecryptionKey(key, info.version);
        return { trusted };
    },

    async back_up() {
        for (let request; (request = await machine.backupRoomKeys()); ) await send(request);
    },

    async restore() {
        const { decryptionKey, backupVersion } = await machine.getBackupKeys();
        const restored = new Map();
        const { rooms: backed } = await ask("GET", `room_keys/keys?version=${backupVersion}`);
        for (const [room, { sessions }] of Object.entries(backed)) {
            const keys = new Map();
            for (const [id, { session_data }] of Object.entries(sessions)) {
                const { ephemeral, mac, ciphertext } = session_data;
                keys.set(id, JSON.parse(decryptionKey.decryptV1(ephemeral, mac, ciphertext)));
            }
            restored.set(new sdk.RoomId(room), keys);
        }
        const result = await machine.importBackedUpRoomKeys(restored, undefined, backupVersion);
        return { imported: result.importedCount, total: result.totalCount };
    },

    async verify_device({ device }) {
        const known = await machine.getDevice(machine.userId, new sdk.DeviceId(device));
        await known.setLocalTrust(sdk.LocalTrust.Verified);
    },

    async secrets() {
        await machine.requestMissingSecretsIfNeeded();
        await sendOutgoing();
        const status = await machine.crossSigningStatus();
        return { master: status.hasMaster, self_signing: status.hasSelfSigning, user_signing: status.hasUserSigning };
    },

    async strict() {
        strategy = () => sdk.CollectStrategy.identityBasedStrategy();
    },

    async request_verification({ user, device: name, room }) {
        if (room) {
            const identity = await machine.getIdentity(new sdk.UserId(user));
            await shareKey(room);
            const asked = JSON.parse(identity.verificationRequestContent(methods()));
            const content = await calls.encrypt({ room, type: "m.room.message", content: asked });
            const { event_id } = await ask("PUT", `rooms/${room}/send/m.room.encrypted/${Math.random()}`, content);
            identity.requestVerification(new sdk.RoomId(room), new sdk.EventId(event_id), methods());
            followFlows();
            return { flow: event_id };
        }
        const device = await machine.getDevice(new sdk.UserId(user), new sdk.DeviceId(name));
        const [request, message] = device.requestVerification(methods());
        await send(message);
        followFlows();
        return { flow: request.flowId };
    },

    async verification() {
        const told = {};
        const phases = sdk.VerificationRequestPhase;
        followFlows();
        for (const [name, request] of flows) {
            told[name] = { phase: phases[request.phase()].toLowerCase(), code: request.cancelInfo?.cancelCode() ?? "" };
            const begun = request.phase() === phases.Transitioned ? request.getVerification() : undefined;
            if (begun instanceof sdk.Sas && begun.canBePresented()) {
                const emoji = begun.emoji()?.map(({ symbol, description }) => [symbol, description]);
                Object.assign(told[name], { phase: "comparing", decimals: [...begun.decimals()], emoji });
            } else if (begun instanceof sdk.Qr && begun.hasBeenScanned()) told[name].phase = "scanned";
        }
        return told;
    },

    async accept_verification({ flow: name }) {
        await send(flows.get(name).acceptWithMethods(methods()));
    },

    async start_sas({ flow: name }) {
        const [, request] = await flows.get(name).startSas();
        await send(request);
    },

    async confirm_sas({ flow: name }) {
        for (const request of await flows.get(name).getVerification().confirm()) await send(request);
    },

    async cancel_verification({ flow: name }) {
        await send(flows.get(name).cancel());
    },

    async show_qr_code({ flow: name }) {
        const code = await flows.get(name).generateQrCode();
        return { shown: Buffer.from(code.toBytes()).toString("base64") };
    },

    async scan_qr_code({ flow: name, scanned }) {
        const code = sdk.QrCodeScan.fromBytes(Uint8ClampedArray.from(Buffer.from(scanned, "base64")));
        await send((await flows.get(name).scanQrCode(code)).reciprocate());
    },

    async confirm_scan({ flow: name }) {
        await send(flows.get(name).getVerification().confirmScanning());
    },

    async wait() {
        const now = Date.now;
        Date.now = () => now() + 7_200_000;
    },

    async decrypt({ room, event }) {
        try {
            const decrypted = await machine.decryptRoomEvent(JSON.stringify(event), new sdk.RoomId(room), trust());
            const { type, content } = JSON.parse(decrypted.event);
            return { type, content };
        } catch (error) {
            if (!(error instanceof sdk.MegolmDecryptionError)) throw error;
            throw { code: "unreadable", message: error.description };
        }
    },
};

async function main() {
    await sdk.initAsync();
    machine = await sdk.OlmMachine.initialize(new sdk.UserId(userId), new sdk.DeviceId(deviceId));
    for (;;) {
        const { call, ...argument } = await read();
        try {
            write({ returned: (await calls[call](argument)) ?? null });
        } catch (error) {
            if (!error.code) throw error;
            write({ raised: error });
        }
    }
}

main();
