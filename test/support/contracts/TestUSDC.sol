// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

interface IERC1271 { function isValidSignature(bytes32, bytes calldata) external view returns (bytes4); }

/// Stand-in for USDC on a local chain: the parts of FiatTokenV2_2 that payments need, with its events in its order.
/// No constructor: its runtime code is placed at USDC's address with anvil_setCode.
contract TestUSDC {
    string public constant symbol = "USDC";
    string public constant version = "2";
    uint8 public constant decimals = 6;

    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH =
        keccak256("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)");
    bytes32 public constant RECEIVE_WITH_AUTHORIZATION_TYPEHASH =
        keccak256("ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)");

    uint256 public totalSupply;
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;
    mapping(address => mapping(bytes32 => bool)) internal _used;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);

    function mint(address to, uint256 v) external { totalSupply += v; balanceOf[to] += v; emit Transfer(address(0), to, v); }
    function authorizationState(address a, bytes32 n) external view returns (bool) { return _used[a][n]; }

    /// As on Base and on Base Sepolia.
    function name() public view returns (string memory) { return block.chainid == 8453 ? "USD Coin" : "USDC"; }

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(
            keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
            keccak256(bytes(name())), keccak256(bytes(version)), block.chainid, address(this)));
    }
    function _move(address f, address t, uint256 v) internal {
        require(t != address(0), "ERC20: transfer to the zero address");
        require(balanceOf[f] >= v, "ERC20: transfer amount exceeds balance");
        unchecked { balanceOf[f] -= v; } balanceOf[t] += v; emit Transfer(f, t, v);
    }
    function transfer(address t, uint256 v) external returns (bool) { _move(msg.sender, t, v); return true; }
    function approve(address s, uint256 v) external returns (bool) { allowance[msg.sender][s] = v; emit Approval(msg.sender, s, v); return true; }
    function transferFrom(address f, address t, uint256 v) external returns (bool) {
        require(allowance[f][msg.sender] >= v, "ERC20: transfer amount exceeds allowance");
        allowance[f][msg.sender] -= v; _move(f, t, v); return true;
    }
    function _sigOk(address signer, bytes32 d, bytes memory sig) internal view returns (bool) {
        if (signer.code.length > 0) {
            (bool ok, bytes memory r) = signer.staticcall(abi.encodeCall(IERC1271.isValidSignature, (d, sig)));
            return ok && r.length >= 32 && abi.decode(r, (bytes32)) == bytes32(IERC1271.isValidSignature.selector);
        }
        if (sig.length != 65) return false;
        bytes32 r_; bytes32 s_; uint8 v_;
        assembly { r_ := mload(add(sig, 32)) s_ := mload(add(sig, 64)) v_ := byte(0, mload(add(sig, 96))) }
        address a = ecrecover(d, v_, r_, s_);
        return a != address(0) && a == signer;
    }
    function _auth(bytes32 th, address f, address t, uint256 v, uint256 va, uint256 vb, bytes32 n, bytes memory sig) internal {
        require(block.timestamp > va, "FiatTokenV2: authorization is not yet valid");
        require(block.timestamp < vb, "FiatTokenV2: authorization is expired");
        require(!_used[f][n], "FiatTokenV2: authorization is used or canceled");
        bytes32 d = keccak256(abi.encodePacked("\x19\x01", DOMAIN_SEPARATOR(), keccak256(abi.encode(th, f, t, v, va, vb, n))));
        require(_sigOk(f, d, sig), "FiatTokenV2: invalid signature");
        _used[f][n] = true; emit AuthorizationUsed(f, n); _move(f, t, v);
    }
    function transferWithAuthorization(address f, address t, uint256 v, uint256 va, uint256 vb, bytes32 n, bytes memory sig) external {
        _auth(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, f, t, v, va, vb, n, sig);
    }
    function transferWithAuthorization(address f, address t, uint256 v, uint256 va, uint256 vb, bytes32 n, uint8 sv, bytes32 r, bytes32 s) external {
        _auth(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, f, t, v, va, vb, n, abi.encodePacked(r, s, sv));
    }
    function receiveWithAuthorization(address f, address t, uint256 v, uint256 va, uint256 vb, bytes32 n, bytes memory sig) external {
        require(t == msg.sender, "FiatTokenV2: caller must be the payee");
        _auth(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, f, t, v, va, vb, n, sig);
    }
    function receiveWithAuthorization(address f, address t, uint256 v, uint256 va, uint256 vb, bytes32 n, uint8 sv, bytes32 r, bytes32 s) external {
        require(t == msg.sender, "FiatTokenV2: caller must be the payee");
        _auth(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, f, t, v, va, vb, n, abi.encodePacked(r, s, sv));
    }
}
