// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// A contract wallet with one owner (ERC-1271).
contract Wallet1271 {
    address public owner;
    constructor(address o) { owner = o; }
    function isValidSignature(bytes32 h, bytes calldata sig) external view returns (bytes4) {
        if (sig.length != 65) return 0xffffffff;
        bytes32 r = bytes32(sig[0:32]); bytes32 s = bytes32(sig[32:64]); uint8 v = uint8(sig[64]);
        return ecrecover(h, v, r, s) == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
    function exec(address to, bytes calldata data) external { require(msg.sender == owner); (bool ok,) = to.call(data); require(ok); }
}

/// Deploys wallets to addresses known beforehand (ERC-6492).
contract WalletFactory {
    function deploy(address o, bytes32 salt) external returns (address) { return address(new Wallet1271{salt: salt}(o)); }
    function initCodeHash(address o) external pure returns (bytes32) { return keccak256(abi.encodePacked(type(Wallet1271).creationCode, abi.encode(o))); }
}

interface IERC20 { function transferFrom(address, address, uint256) external returns (bool); }

/// Several transfers in one transaction, from whoever approved it.
contract Batch {
    function send(IERC20 token, address[] calldata from, address[] calldata to, uint256[] calldata value) external {
        for (uint i; i < to.length; i++) require(token.transferFrom(from[i], to[i], value[i]));
    }
}

/// Looks like USDC and is not: takes a fee of 10% and says otherwise in its event.
contract Lookalike {
    mapping(address => uint256) public balanceOf;
    event Transfer(address indexed from, address indexed to, uint256 value);
    function mint(address to, uint256 v) external { balanceOf[to] += v; }
    function transfer(address t, uint256 v) external returns (bool) {
        balanceOf[msg.sender] -= v; balanceOf[t] += v - v / 10; emit Transfer(msg.sender, t, v); return true;
    }
}

/// The part of Multicall3 that facilitators use to find out why a payment would fail.
contract MiniMulticall3 {
    struct Call3 { address target; bool allowFailure; bytes callData; }
    struct Call { address target; bytes callData; }
    struct Result { bool success; bytes returnData; }
    function tryAggregate(bool must, Call[] calldata calls) external payable returns (Result[] memory r) {
        r = new Result[](calls.length);
        for (uint i; i < calls.length; i++) { (r[i].success, r[i].returnData) = calls[i].target.call(calls[i].callData); require(r[i].success || !must, "Multicall3: call failed"); }
    }
    function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory r) {
        r = new Result[](calls.length);
        for (uint i; i < calls.length; i++) { (r[i].success, r[i].returnData) = calls[i].target.call(calls[i].callData); require(r[i].success || calls[i].allowFailure, "Multicall3: call failed"); }
    }
}
